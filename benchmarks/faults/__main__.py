"""What a training run survives.

    python -m benchmarks.faults [--kills 30] [--seed 0] [--rows 0 1 ...] [--short] [--out FILE]

Runs of a small MIRL on the CPU (30 iterations, accumulation, averaged weights, validation, a loader
worker) are struck and go on with ``--resume auto``; the final weights, averages, optimizer and
schedules have to be those of an undisturbed run to the bit. Most runs are forked from this process,
which has imported everything; the last two rows start tools/train.py and tools/dist_train.sh. While
a kill during saving is waited for, every fsync takes 50 ms longer. ``python -m
benchmarks.faults.table`` puts the results into README.md.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before torch looks: the runs are forked

import mmpretrain.models  # noqa: F401  (so that they need not import it)

from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

from . import scenarios
from .run import ROOT
from .scenarios import Bench, Outcome, write_table


def plan(kills: int, short: bool) -> list[Callable[[Bench], Outcome]]:
    """The scenarios, with their share of the kills."""
    if short:
        return [
            partial(scenarios.kills, count=2, processes=1, by_epoch=True, saving=False),
            partial(scenarios.kills, count=1, processes=1, by_epoch=True, saving=True),
            partial(scenarios.one_of_two_dies, count=1),
            scenarios.one_of_two_fails,
            partial(scenarios.preemption, count=1, processes=1),
            scenarios.not_finite,
        ]
    shares = [kills * share // 10 for share in (2, 2, 2, 2, 1)]
    shares[0] += kills - sum(shares)
    return [
        partial(scenarios.kills, count=shares[0], processes=1, by_epoch=True, saving=False),
        partial(scenarios.kills, count=shares[1], processes=1, by_epoch=False, saving=False),
        partial(scenarios.kills, count=shares[2], processes=1, by_epoch=True, saving=True),
        partial(scenarios.kills, count=shares[3], processes=2, by_epoch=True, saving=False),
        partial(scenarios.one_of_two_dies, count=shares[4]),
        scenarios.one_of_two_fails,
        partial(scenarios.preemption, count=2, processes=1),
        partial(scenarios.preemption, count=2, processes=2),
        partial(scenarios.truncation, count=3),
        scenarios.full_disk,
        scenarios.not_finite,
        scenarios.corrupt_images,
        partial(scenarios.tools, processes=1),
        partial(scenarios.tools, processes=2),
    ]


def strike(bench: Bench, steps: dict[int, Callable]) -> dict[int, Outcome]:
    """Run the scenarios, by number, and say each outcome."""
    outcomes = {}
    for number, step in steps.items():
        bench.random.seed(f'{bench.seed}, {number}')
        started = time.monotonic()
        outcome = step(bench)
        outcome.seconds = time.monotonic() - started
        outcomes[number] = outcome
        print(
            f'{outcome.fault}: {outcome.survived} of {outcome.injected} survived '
            f'({outcome.seconds:.0f} s) {"; ".join(outcome.notes)}',
            flush=True,
        )
    return outcomes


def write_results(path: Path, outcomes: dict[int, Outcome], config: dict) -> None:
    """Write rows; those of the same file and settings that were not run again stay."""
    rows = {}
    if path.is_file():
        former = json.loads(path.read_text())
        rows = {row['row']: row for row in former['faults'] if former['config'] == config}
    rows |= {number: dict(row=number, **each.to_json()) for number, each in outcomes.items()}
    faults = [row for _, row in sorted(rows.items())]
    write_json(path, dict(environment(), config=config, faults=faults))


def main() -> None:
    parser = argparse.ArgumentParser(description='What a training run survives.')
    parser.add_argument('--kills', type=int, default=30, help='SIGKILLs, apart from the tools rows')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--rows', type=int, nargs='+', help='numbers of some, from 0 on')
    parser.add_argument('--short', action='store_true', help='a few faults, in a minute')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results/faults.json')
    args = parser.parse_args()
    if args.kills < 10:
        parser.error(f'--kills must be at least 10 to reach every scenario, got {args.kills}')
    steps = dict(enumerate(plan(args.kills, args.short)))
    if unknown := set(args.rows or ()) - steps.keys():
        parser.error(f'--rows must be among 0 to {len(steps) - 1}, got {sorted(unknown)}')
    steps = {number: steps[number] for number in args.rows or steps}
    with tempfile.TemporaryDirectory(prefix='faults-') as folder:
        outcomes = strike(Bench(Path(folder), args.seed), steps)
    print(f'\n{write_table(list(outcomes.values()))}')
    if not args.short:
        write_results(args.out, outcomes, dict(kills=args.kills, seed=args.seed))
    sys.exit(any(outcome.lost for outcome in outcomes.values()))


if __name__ == '__main__':
    main()
