"""What a training run survives.

    python -m benchmarks.faults [--kills 30] [--seed 0] [--rows 0 1 ...] [--short] [--out FILE]

Runs at test size on the CPU (MIRL, MAE, fine-tuning, a linear probe, Mask R-CNN, UperNet, see
kinds.py) are struck and go on with ``--resume auto``; the final weights, averages, optimizer and
schedules have to be those of an undisturbed run to the bit, and nothing may be left behind. Most
runs are forked from this process, which has imported everything; the rows of launched.py start
tools/train.py and tools/dist_train.sh, also on two nodes that are network namespaces. Where a fault
has to meet a save, every fsync takes longer. A row of ``--out`` stays until it is run again.
``python -m benchmarks.faults.table`` puts the results into README.md.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before torch looks: the runs are forked

import mmpretrain.models  # noqa: F401  (so that they need not import it)

from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

from . import disks, inputs, kills, launched
from .bench import Bench, Outcome, write_table
from .kinds import KINDS, import_all
from .run import ROOT

OTHERS = [name for name in KINDS if not name.startswith('MIRL')]


def plan(count: int, short: bool) -> list[Callable[[Bench], Outcome]]:
    """The scenarios, with the share of the kills of those that kill the small MIRL."""
    if short:
        return [
            partial(kills.kills, count=2, processes=1),
            partial(kills.kills, count=1, processes=1, saving=True),
            partial(kills.one_of_two_dies, count=1),
            kills.one_of_two_fails,
            partial(kills.preemption, count=1, processes=1),
            inputs.not_finite,
        ]
    shares = [count * share // 10 for share in (2, 2, 2, 2, 1)]
    shares[0] += count - sum(shares)
    return [
        partial(kills.kills, count=shares[0], processes=1),
        partial(kills.kills, count=shares[1], processes=1, kind='MIRL by iterations'),
        partial(kills.kills, count=shares[2], processes=1, saving=True),
        partial(kills.kills, count=shares[3], processes=2),
        partial(kills.one_of_two_dies, count=shares[4]),
        kills.one_of_two_fails,
        partial(kills.preemption, count=2, processes=1),
        partial(kills.preemption, count=2, processes=2),
        partial(disks.truncation, count=3),
        partial(disks.full_disk, best=False),
        inputs.not_finite,
        inputs.corrupt_images,
        partial(launched.tools, processes=1),
        partial(launched.tools, processes=2),
        *(partial(kills.every_way, kind=kind) for kind in OTHERS),
        partial(kills.worker_dies, processes=1),
        partial(kills.worker_dies, processes=2),
        kills.frozen,
        partial(disks.truncation, count=3, newest=2),
        disks.removed,
        partial(disks.full_disk, best=True),
        disks.read_only,
        inputs.damaged_shard,
        inputs.clock,
        partial(launched.launcher_dies, count=2),
        launched.restarts,
        partial(launched.on_two_nodes, cut=False),
        partial(launched.on_two_nodes, cut=True),
    ]


def strike(bench: Bench, steps: dict[int, Callable]) -> Iterator[tuple[int, Outcome]]:
    """Run the scenarios, by number, and say each outcome."""
    for number, step in steps.items():
        bench.random.seed(f'{bench.seed}, {number}')
        started = time.monotonic()
        outcome = step(bench)
        if left := bench.clear():
            outcome.survived = 0
            outcome.notes.append(left)
        outcome.seconds = time.monotonic() - started
        noticed = '' if outcome.noticed is None else f'noticed in {outcome.noticed} s '
        print(
            f'{outcome.fault}: {outcome.survived} of {outcome.injected} survived '
            f'({outcome.seconds:.0f} s) {noticed}{"; ".join(outcome.notes)}',
            flush=True,
        )
        yield number, outcome


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
    parser.add_argument('--kills', type=int, default=30, help='SIGKILLs of the small MIRL')
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
    if not args.short:
        import_all()
    with tempfile.TemporaryDirectory(prefix='faults-') as folder:
        outcomes: dict[int, Outcome] = {}
        for number, outcome in strike(Bench(Path(folder), args.seed), steps):
            outcomes[number] = outcome
            if not args.short:
                write_results(args.out, outcomes, dict(kills=args.kills, seed=args.seed))
    print(f'\n{write_table(list(outcomes.values()))}')
    sys.exit(any(outcome.lost for outcome in outcomes.values()))


if __name__ == '__main__':
    main()
