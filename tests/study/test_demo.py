"""Grid ``demo`` in words, and what the demo prints of it."""

import pytest

from benchmarks.study import rows
from benchmarks.study.demo import LONGEST, MAE, NONE, SCORES, by_start, demo, headline, verdict
from benchmarks.study.grid import RUNS
from benchmarks.study.stages import what
from mirl_mm.demo.transfer import PRE_TRAINED, SCRATCH, SEEDS

STARTS = {LONGEST: 50.0, NONE: 40.0, MAE: 49.5}


def row(kind: tuple[str, int], seed: int, score: float) -> dict:
    run = next(
        run
        for run in RUNS.values()
        if run.grid == 'demo' and (run.method, run.epochs, run.seed) == (*kind, seed)
    )
    cpu = dict(pretrain=600.0) if run.epochs else {}
    return rows.form(what(run), dict(scores=dict.fromkeys(SCORES, score), cpu_seconds=cpu))


def made(starts: dict, seeds: int = 3) -> list[dict]:
    return [
        row(kind, seed, score + seed) for kind, score in starts.items() for seed in range(seeds)
    ]


def test_what_is_beyond_the_spread_and_what_is_not():
    text = demo(made(STARTS))
    assert '| MIRL | 0 | 3 | 10.0 (10.0 to 10.0) | - | 51.0 (50.0 to 52.0) |' in text
    assert '| from scratch | - | 3 | - | - | 41.0 (40.0 to 42.0) |' in text
    assert '* MIRL against scratch: box AP50 +10.0 (beyond the spread), mask' in text
    assert '* MIRL against MAE: box AP50 +0.5 (within the spread), mask' in text
    said = verdict(made(STARTS))
    assert said.startswith(
        'It pays. MIRL against scratch: box AP50 +10.0 (beyond the spread), mask'
    )
    assert '. MIRL against MAE: box AP50 +0.5 (within the spread), mask' in said


@pytest.mark.parametrize('seeds', [1, 2])
def test_too_few_seeds_say_nothing_yet(seeds):
    text = demo(made(STARTS, seeds))
    assert f'box AP50 +10.0 ({seeds} of 3 seeds, says nothing yet)' in text
    assert verdict(made(STARTS, seeds)).startswith('It does not show yet')


@pytest.mark.parametrize('seeds', [1, 3])
def test_what_is_said_first(seeds):
    text = headline(made(STARTS, seeds))
    ends = '51.0 (50.0 to 52.0)' if seeds == 3 else '50.0'
    assert text.startswith(f'What the demo reaches, on {seeds} seed')
    assert f': box AP50 {ends} after pre-training, ' in text and f'; mIoU {ends} after' in text
    assert ' from scratch, ' in text and text.count(' after MAE in as much time') == 2
    assert headline(made({NONE: 40.0})) == headline([]) == 'No run yet.'


def test_a_loss_is_no_gain():
    assert verdict(made({LONGEST: 30.0, NONE: 40.0})).startswith('It does not show yet')
    assert verdict([]) == 'No run yet.' and '0 of 15 runs so far' in demo([])


def test_what_the_demo_prints_in_brackets_is_the_study_s():
    _, groups = by_start(list(rows.read().values()))
    found = {}
    for name, kind in ((PRE_TRAINED, LONGEST), (SCRATCH, NONE)):
        if len(groups.get(kind, [])) == 3:
            scores = {key: sorted(row[key] for row in groups[kind]) for key in SCORES}
            found[name] = {
                key: (round(each[0], 1), round(each[-1], 1)) for key, each in scores.items()
            }
    assert found == SEEDS
