"""The study: runs that fill idle hours, and what they say.

    python -m benchmarks.study list [--only PATTERN ...]
    python -m benchmarks.study run --minutes M [--jobs N] [--only PATTERN ...] [--data DIR]
    python -m benchmarks.study table
    python -m benchmarks.study plot [--to DIR]

The runs are declared in grid.py. ``run`` takes those that have no row yet, one thread each and at
the lowest priority, and stops within M minutes; the next call goes on. Rows go to
benchmarks/results/study/rows.jsonl and are committed; tables of them stand in README.md, and what
they say in docs/evidence.md.
"""

import argparse
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

from benchmarks.markdown import markdown

from . import evidence, plots, rows, tables
from .grid import chosen
from .stages import Place, stages, unfinished


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Runs that fill idle hours, and what they say.')
    parser.add_argument('--out', type=Path, default=rows.ROWS, metavar='FILE', help='the rows')
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (('list', 'the runs and their state'), ('run', 'the next unfinished runs')):
        command = commands.add_parser(name, help=text)
        command.add_argument('--only', nargs='+', metavar='PATTERN', help='names; * for anything')
        command.add_argument('--data', type=Path, default=Path('data'), metavar='DIR')
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'))
        if name == 'list':
            command.add_argument('--commands', action='store_true', help='what is run, as commands')
            continue
        command.add_argument('--minutes', type=float, required=True, help='to stop within')
        command.add_argument('--jobs', type=int, default=1, help='runs at a time (1)')
    commands.add_parser('table', help='means and spread of what is finished')
    plot = commands.add_parser('plot', help='the same as pictures')
    plot.add_argument('--to', type=Path, default=rows.ROWS.parent, metavar='DIR')
    args = parser.parse_args()
    if args.command == 'run' and (args.minutes <= 1 or args.jobs < 1):
        parser.error(
            f'--minutes must be above 1 and --jobs at least 1, got {args.minutes:g} and {args.jobs}'
        )
    return args


def show_list(args: argparse.Namespace) -> None:
    """Every run with its state: a row, the stage that it stopped in, or nothing yet."""
    finished, place, lines = rows.read(args.out), Place(args.work_dir, args.data), []
    for run in chosen(args.only):
        state = '-'
        if run.name in finished:
            state = 'row'
        elif place.of(run).is_dir():
            left = unfinished(run, place)
            state = f'in {left[0].name}' if left else 'in row'
        lines.append([run.name, state])
        if args.commands:
            for stage in stages(run, place):
                command = shlex.join(['python', *stage.command])
                lines.append([f'  {stage.name}', f'`OMP_NUM_THREADS=1 {command}`'])
    print(markdown(['run', 'state'], lines))


def run(args: argparse.Namespace) -> list[str]:
    from .run import ONE_THREAD, work

    asked = threading.Event()
    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(which, lambda *_: asked.set())
    os.environ |= ONE_THREAD  # rows name the device that the runs see
    place = Place(args.work_dir.absolute(), args.data.absolute())
    return work(chosen(args.only), place, 60 * args.minutes, args.jobs, args.out, asked)


def known(file: Path) -> dict[str, dict]:
    """The rows; FileNotFoundError where there is no file of them."""
    if not file.exists():
        raise FileNotFoundError(f'no rows at {file}: run some, or give another --out FILE')
    return rows.read(file)


def main() -> None:
    args = parse_args()
    try:
        if args.command == 'list':
            show_list(args)
        elif args.command == 'run':
            sys.exit(1 if run(args) else 0)
        elif args.command == 'table':
            found = known(args.out)
            made = tables.all_tables(found) | evidence.all_evidence(found)
            print('\n\n'.join(made.values()))
        else:
            for file in plots.draw(known(args.out), args.to):
                print(file)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
