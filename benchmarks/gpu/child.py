"""One stage in a process of its own: ``python -m benchmarks.gpu`` starts this.

python -m benchmarks.gpu.child STAGE --out DIR --until T --call ID [...]
"""

import argparse
import logging
import time
from pathlib import Path

import torch

from benchmarks.processes import end_with_parent

from .stage import Bench, Record, run_parts
from .stages import STAGES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='One stage of benchmarks.gpu.')
    parser.add_argument('stage', choices=list(STAGES))
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--until', type=float, required=True, help='of the clock, in seconds')
    parser.add_argument('--call', required=True, help='what failed in it is not tried again')
    parser.add_argument('--data', type=Path)
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--rehearse', action='store_true')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    end_with_parent()
    logging.disable(logging.WARNING)  # MMEngine says a line for every parameter
    torch.manual_seed(0)
    bench = Bench(
        device='cpu' if args.rehearse else 'cuda',
        rehearse=args.rehearse,
        found={},
        seconds_left=lambda: args.until - time.time(),
        data=args.data,
        epochs=args.epochs,
    )
    stage = STAGES[args.stage]
    run_parts(
        args.stage,
        stage.parts(args.rehearse),
        bench,
        Record(args.out / f'{args.stage}.json'),
        args.call,
        stage.sizes(args.rehearse),
    )


if __name__ == '__main__':
    main()
