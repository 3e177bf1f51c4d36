"""The command: what it lists, and one clear line for what it cannot do."""

import os
import signal
import sys

import pytest

from benchmarks.study import __main__ as entry
from benchmarks.study import rows, run
from benchmarks.study.grid import RUNS
from benchmarks.study.stages import what


def call(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['study', *map(str, words)])
    entry.main()


def failed(monkeypatch, *words: object) -> str:
    with pytest.raises(SystemExit) as raised:
        call(monkeypatch, *words)
    return str(raised.value.code)


def test_the_list(monkeypatch, tmp_path, capsys):
    name = 'tiny-mae-12-10e-s0'
    rows.add(rows.form(what(RUNS[name]), {}), tmp_path / 'rows.jsonl')
    (tmp_path / 'work/tiny-mirl-12-10e-s0/train').mkdir(parents=True)
    (tmp_path / 'work/tiny-mirl-12-10e-s0/train/epoch_10.pth').touch()
    where = ['--work-dir', tmp_path / 'work', '--only', 'tiny-m*-12-10e-s[01]']
    call(monkeypatch, '--out', tmp_path / 'rows.jsonl', 'list', *where)
    assert capsys.readouterr().out.splitlines()[2:] == [
        '| tiny-mirl-12-10e-s0 | in probe |',
        f'| {name} | row |',
        '| tiny-mirl-12-10e-s1 | - |',
        '| tiny-mae-12-10e-s1 | - |',
    ]
    call(monkeypatch, 'list', '--commands', '--only', name)
    shown = capsys.readouterr().out
    assert (
        '`OMP_NUM_THREADS=1 python tools/train.py benchmarks/study/mae_tiny.py --work-dir ' in shown
    )
    assert '--resume auto --cfg-options randomness.seed=0 ' in shown


def test_what_it_cannot_do(monkeypatch, tmp_path, capsys):
    out = ['--out', tmp_path / 'rows.jsonl']
    words = failed(monkeypatch, *out, 'run', '--minutes', 5, '--only', 'tiny-vit')
    assert words.startswith(
        'error: no run of the grid is called tiny-vit: names are like tiny-mirl'
    )
    words = failed(monkeypatch, *out, 'run', '--minutes', 5, '--data', tmp_path / 'none')
    assert words.startswith(
        f'error: no files of 35,000 at {tmp_path}/none/tiny_imagenet_100/train: unpack'
    )
    monkeypatch.setattr(run, 'check_data', lambda *_: None)
    with run.alone(tmp_path / 'work'):
        words = failed(monkeypatch, *out, 'run', '--minutes', 5, '--work-dir', tmp_path / 'work')
    assert words.startswith(f'error: {tmp_path}/work is in use by another driver')
    for command in (['table'], ['plot', '--to', tmp_path / 'pictures']):
        words = failed(monkeypatch, *out, *command)
        assert words.startswith(f'error: no rows at {tmp_path}/rows.jsonl: run some')
        assert failed(monkeypatch, '--out', tmp_path, *command).startswith('error: ')
    assert not (tmp_path / 'pictures').exists()
    (tmp_path / 'rows.jsonl').write_text('{"study": 7, "run": "tiny-mae-12-10e-s0"}\n')
    for command in (
        ['table'],
        ['plot', '--to', tmp_path],
        [*['run', '--minutes', '5', '--work-dir'], tmp_path],
        ['list'],
    ):
        words = failed(monkeypatch, *out, *command)
        assert words.startswith(f'error: {tmp_path}/rows.jsonl, line 1: a row of version 7')
    capsys.readouterr()
    assert failed(monkeypatch, 'run', '--minutes', 1) == '2'
    assert '--minutes must be above 1 and --jobs at least 1, got 1 and 1' in capsys.readouterr().err


@pytest.mark.parametrize('which', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_the_driver_in_order(which, monkeypatch, tmp_path):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT,
                                                        signal.SIGHUP)}  # fmt: skip
    found = []

    def work(runs, place, seconds, jobs, file, asked) -> list[str]:
        found.append(asked.is_set())
        os.kill(os.getpid(), which)
        found.append(asked.wait(5))
        return []

    monkeypatch.setattr(run, 'work', work)
    try:
        assert failed(monkeypatch, '--out', tmp_path / 'rows', 'run', '--minutes', 5) == '0'
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert found == [False, True]
