"""All GPU figures in one go, ordered by value; what has a result already is skipped.

    python -m benchmarks.gpu --minutes 9.5 --out DIR [--data TINY_IMAGENET_100] [--only STAGE ...]

Every stage runs in a process of its own, in a time of its own, and writes ``DIR/STAGE.json`` after
each of its parts; ``DIR/log.txt`` has what it printed. The next call with the same DIR goes on.
``--rehearse`` runs everything at test size on a CPU and measures nothing.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.processes import ROOT, end, with_checkout

from .stage import MARK, Record, next_part
from .stages import STAGES

RESULTS = ROOT / 'benchmarks/results/gpu'
START = 15.0  # seconds that a stage takes to start


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.gpu', description='All GPU figures, ordered by value.'
    )
    parser.add_argument('--minutes', type=float, default=30.0, help='for this call (30)')
    parser.add_argument(
        '--only', nargs='+', choices=list(STAGES), help='these stages, as long as the call lasts'
    )
    parser.add_argument('--out', type=Path, help='folder of the results (benchmarks/results/gpu)')
    parser.add_argument('--data', type=Path, help='Tiny-ImageNet-100: {train,val}/<class>/*.JPEG')
    parser.add_argument('--epochs', type=int, help='of the depth study; measured without it')
    parser.add_argument('--rehearse', action='store_true', help='at test size, on a CPU')
    args = parser.parse_args()
    if args.minutes <= 0 or (args.epochs is not None and args.epochs < 1):
        parser.error('--minutes and --epochs must be above 0')
    for name in ('out', 'data'):
        if path := getattr(args, name):
            setattr(args, name, path.resolve())
    return args


def main() -> None:
    args = parse_args()
    if args.rehearse and args.out is None:
        with tempfile.TemporaryDirectory(prefix='gpu-rehearsal-') as folder:
            args.out = Path(folder)
            failed = run(args)
    else:
        args.out = args.out or RESULTS
        failed = run(args)
    sys.exit(failed)


def run(args: argparse.Namespace) -> bool:
    """All stages, as far as the time goes; whether anything failed."""
    hardware = hardware_of(args.rehearse)
    refuse_others(args.out, hardware, args.rehearse)
    call = time.strftime('%Y-%m-%d %H:%M:%S')
    started = time.monotonic()
    until = started + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    print(f'{hardware}{", a rehearsal: nothing is measured" if args.rehearse else ""}', flush=True)
    with (args.out / 'log.txt').open('a') as log:
        print(f'\n--- {call}, {hardware}', file=log, flush=True)
        for name in args.only or STAGES:
            run_stage(name, args, call, until, log)
    failed = summary(args)
    print(f'{(time.monotonic() - started) / 60:.1f} minutes')
    return failed


def hardware_of(rehearse: bool) -> str:
    """The device's name, as in the results."""
    if rehearse:
        return f'{platform.machine()} CPU'
    if not torch.cuda.is_available():
        sys.exit('error: torch sees no GPU; --rehearse runs all stages at test size on a CPU')
    return torch.cuda.get_device_name()


def refuse_others(out: Path, hardware: str, rehearse: bool) -> None:
    """End with one line where a folder has results of a rehearsal, or of another device."""
    for name in STAGES:
        head = Record(out / f'{name}.json').head
        if not head:
            continue
        kinds = [(head['rehearsal'], head['hardware']), (rehearse, hardware)]
        if kinds[0] != kinds[1]:
            mixed = head['rehearsal'] != rehearse
            there, here = ('a rehearsal' if mixed and kind else repr(name) for kind, name in kinds)
            sys.exit(
                f'error: {out} holds results of {there}, and this is {here}: give another --out'
            )


def run_stage(name: str, args: argparse.Namespace, call: str, until: float, log: TextIO) -> None:
    """Start the stage's process, and again where one of its parts has killed it."""
    stage = STAGES[name]
    if why := stage.why_not(args):
        print(f'{name}: not run: {why}', flush=True)
        return
    parts = stage.parts(args.rehearse)
    while True:
        record = Record(args.out / f'{name}.json')
        if not record.missing(parts, call):
            return
        left = until - time.monotonic()
        if stage.minutes is not None and not args.only:
            left = min(left, 60 * stage.minutes - record.spent)
        if left < START or next_part(parts, record, call, left - START) is None:
            print(f'{name}: {max(left, 0):.0f} seconds are too few for what is missing', flush=True)
            return
        code, last = child(name, args, call, left, log)
        if code in (0, None):
            return
        before, record = record.failed, Record(args.out / f'{name}.json')
        what = f'its process ended with {code}'
        if record.running is not None:
            print(f'{name}, {record.running}: FAILED: {what}', flush=True)
            record.fail(record.running, f'{what}\n{last}', call)
        elif record.failed == before:  # else a failure has left the device unusable: start anew
            print(f'{name}: FAILED: {what}\n{last}', flush=True)
            return


def child(
    name: str, args: argparse.Namespace, call: str, seconds: float, log: TextIO
) -> tuple[int | None, str]:
    """Run a stage; its exit code, None where its time was over, and the end of what it printed."""
    command = [sys.executable, '-u', '-W', 'ignore', '-m', 'benchmarks.gpu.child', name]
    command += ['--out', args.out, '--call', call, '--until', time.time() + seconds - 2]
    for key in ('data', 'epochs'):
        if (value := getattr(args, key)) is not None:
            command += [f'--{key}', value]
    command += ['--rehearse'] * args.rehearse
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        cwd=ROOT,
        env=environ(args.rehearse),
    )
    lines: deque[str] = deque(maxlen=30)
    reader = threading.Thread(target=follow, args=(process, log, lines), daemon=True)
    reader.start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f'{name}: its time is over', flush=True)
        code = None
    finally:
        end(process.pid)
        process.wait()
    reader.join(5)
    return code, ''.join(lines)


def follow(process: subprocess.Popen, log: TextIO, lines: deque[str]) -> None:
    """Write what a stage prints to the log, and its results to the terminal."""
    for line in process.stdout:
        lines.append(line)
        log.write(line)
        log.flush()
        if line.startswith(MARK):
            print(line.removeprefix(MARK), end='', flush=True)


def environ(rehearse: bool) -> dict[str, str]:
    """Of a stage; compiled code goes where it can be written."""
    found = with_checkout()
    caches = Path(tempfile.gettempdir()) / 'mirl_mm-compiled'
    found.setdefault('TORCHINDUCTOR_CACHE_DIR', str(caches / 'inductor'))
    found.setdefault('TRITON_CACHE_DIR', str(caches / 'triton'))
    if rehearse:
        found['CUDA_VISIBLE_DEVICES'] = ''
    return found


def summary(args: argparse.Namespace) -> bool:
    """Say what there is and what is missing; whether anything failed."""
    failed = False
    print()
    for name in args.only or STAGES:
        record = Record(args.out / f'{name}.json')
        parts = STAGES[name].parts(args.rehearse)
        missing = [part.name for part in parts if part.name not in record.found]
        print(f'{name:<11} {len(parts) - len(missing)} of {len(parts)} parts')
        for part in missing:
            why = record.left_out.get(part, 'not run yet')
            if part in record.failed:
                failed = True
                lines = record.failed[part]['error'].strip().splitlines()
                why = f'FAILED: {lines[-1][:200]}'
            print(f'    missing: {part}: {why}')
    return failed


if __name__ == '__main__':
    main()
