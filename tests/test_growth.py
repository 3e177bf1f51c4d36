"""The growth benchmark sees what grows, and nothing in a run of ours as it is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmarks import growth
from benchmarks.growth import COUNTS, WARM_UP, WINDOWS, grow, histories, trend
from tests.processes import in_clean_process

MB = 2**20


class Leak(Hook):
    """Keep a megabyte and an open file of every iteration."""

    def __init__(self, file: Path) -> None:
        self.file, self.kept = file, []

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        self.kept += [np.ones(MB, np.uint8), self.file.open('w')]


def grown(folder: Path, leaking: bool) -> dict:
    return grow('mirl', WINDOWS, folder, *[Leak(folder / 'open')] * leaking)


@pytest.mark.parametrize('leaking', [pytest.param(False, marks=pytest.mark.long), True])
def test_a_leak_is_called_growth(leaking, tmp_path):
    """Both runs are too short to say more of memory than that a megabyte an iteration shows."""
    found = in_clean_process(grown, tmp_path, leaking)
    trends, windows = found['trends'], found['windows']
    assert [each['iteration'] for each in windows] == [*range(1, WINDOWS + 1)]
    assert trends['files']['grows'] == leaking and not trends['threads']['grows']
    assert trends['files']['slope'] == pytest.approx(1000 if leaking else 0, abs=100)
    assert not leaking or trends['memory_mb']['grows']
    if leaking:
        assert trends['memory_mb']['slope'] == pytest.approx(MB / 1e3, rel=0.5)
    assert trends['files']['start'] >= 3 and trends['memory_mb']['start'] > 50
    assert windows[-1]['step_ms'] > 0 and windows[-1]['children'] >= 1  # a loader worker
    assert found['log_lines'] > WINDOWS  # of training and of validation
    assert found['files']['checkpoints']['files'] == 3  # two, and the encoder's
    assert windows[-1]['disk']['checkpoints'] > 1.5 * windows[0]['disk']['checkpoints'] > 0
    assert found['files']['pictures']['files'] >= 2


def test_the_rule():
    """Above three standard errors, and above what counts; the warm-up has no say."""
    steps = np.arange(250, 5001, 250)
    noise = np.random.default_rng(0).normal(size=len(steps))
    warm = np.where(np.arange(len(steps)) < WARM_UP, -500.0, 0.0)
    leak = 0.002 * steps  # 2 units every 1,000 iterations
    of = {
        'flat': np.full(len(steps), 7.0),
        'noise': 500 + noise,
        'leak': 500 + leak,
        'leak in noise': 500 + leak + noise + warm,
        'little': 500 + leak / 20,
        'falls': 500 - leak,
    }
    found = {name: trend(steps, values, counts=2.0) for name, values in of.items()}
    assert [name for name, each in found.items() if each['grows']] == ['leak', 'leak in noise']
    assert found['leak'] == dict(start=503, end=510, slope=2, error=0, counts=2, grows=True)
    assert found['leak in noise']['slope'] == pytest.approx(2, abs=3 * found['noise']['error'])
    assert (found['flat']['slope'], found['flat']['error']) == (0, 0)


def test_histories_cost_what_their_values_take(monkeypatch):
    monkeypatch.setattr(growth, 'LENGTHS', (10, 20))
    found = histories()
    assert {length: each['checkpoint_bytes'] for length, each in found.items()} == {
        '10': 160,
        '20': 320,
    }


def test_the_command(monkeypatch, tmp_path, capsys):
    """It sums up every kind in a line a quantity, and writes all of it down."""
    out, small = tmp_path / 'growth.json', dict(slope=0.1, error=0.1, start=1, end=2, counts=1)
    trends = {name: dict(small, grows=name == 'files') for name in COUNTS}
    monkeypatch.setattr(growth, 'in_its_own_process', lambda *_: dict(trends=trends))
    command = ['growth', '--kinds', 'upernet', '--iterations', '40', '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', command)
    growth.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith('upernet ') for line in lines] == [True] * len(COUNTS)
    assert [line.endswith('GROWS') for line in lines] == [name == 'files' for name in COUNTS]
    written = json.loads(out.read_text())
    assert written['runs']['upernet']['trends'] == trends
    assert written['config'] == dict(kinds=['upernet'], iterations=40)

    monkeypatch.setattr(sys, 'argv', ['growth', '--iterations', '30'])
    with pytest.raises(SystemExit):
        growth.main()
    assert '--iterations must be a multiple of 20, got 30' in capsys.readouterr().err
