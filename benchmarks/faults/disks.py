"""Checkpoints that are damaged or removed, and disks that are full or cannot be written."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirl_mm.engine.resume import is_whole

from .bench import Bench, Outcome, until
from .jobs import hit
from .run import SLOW_DISK

NO_MOUNTS = 'nothing can be mounted here (it needs root): skipped'


def truncation(bench: Bench, count: int, newest: int = 1) -> Outcome:
    """The newest checkpoints are cut at a random byte: the one before is taken, which is said."""
    which = 'newest checkpoint' if newest == 1 else f'newest {newest} checkpoints'
    outcome = Outcome(f'{which} cut short')
    _, duration = bench.undisturbed(1)
    while outcome.injected < count:
        job = bench.job(default_hooks__checkpoint__max_keep_ckpts=newest + 1)
        job.start('auto')
        hit(job, bench.random.uniform(0.6, 0.95) * duration)
        job.wait()
        pointer = job.work_dir / 'last_checkpoint'
        last = int(Path(pointer.read_text()).stem[5:]) if pointer.is_file() else 0
        numbers = (int(file.stem[5:]) for file in job.work_dir.glob('iter_*.pth'))
        # (a kill between a checkpoint and the pointer to it leaves one that nobody looks for)
        files = [job.work_dir / f'iter_{n}.pth' for n in sorted(numbers) if n <= last]
        if len(files) < newest + 1:
            continue
        for file in files[-newest:]:
            content = file.read_bytes()
            file.write_bytes(content[: bench.random.randrange(len(content))])
        problem = bench.ends_well(job)
        log = job.log()
        if not problem and not all(f'{file} is cut short' in log for file in files[-newest:]):
            problem = f'it was not said of {files[-newest:]}'
        outcome.count(problem)
        for file in files[-newest:]:  # one that the run had no reason to write again stays as it is
            if not is_whole(file):
                file.unlink(missing_ok=True)
    return outcome


def removed(bench: Bench) -> Outcome:
    """Somebody removes the newest checkpoint and the pointer to it; then a kill, or none."""
    outcome = Outcome('newest checkpoint removed while running')
    for struck in (False, True):
        job = bench.job(environ={SLOW_DISK: '0.02'})
        job.start('auto')
        pointer = job.work_dir / 'last_checkpoint'
        until(lambda job=job: job.saved(12) or not job.running())
        until(lambda pointer=pointer: pointer.read_text().endswith('iter_12.pth'), 5)
        for path in (job.work_dir / 'iter_12.pth', pointer):
            path.unlink()
        if struck:
            job.kill()
        codes = job.wait()
        wanted = [-signal.SIGKILL if struck else 0]
        problem = '' if codes == wanted else f'ended with {codes}: {job.output()[-500:]}'
        outcome.count(problem or bench.ends_well(job))
    return outcome


def full_disk(bench: Bench, best: bool) -> Outcome:
    """The disk fills up in the middle of a run, and gets room again before its end.

    The best checkpoint comes after 10 iterations, others after 4, 8, 12 ...
    """
    what = 'the best checkpoint' if best else 'iter_16.pth'
    outcome = Outcome(f'disk full while {"the best checkpoint" if best else "one"} is written')
    if not _can_mount(bench.folder / 'disk'):
        outcome.notes.append(NO_MOUNTS)
        return outcome
    with _small_disk(bench.folder / 'disk', megabytes=4) as disk:
        job = bench.job(folder=disk, environ={SLOW_DISK: '0.05'})
        # The log has no room, either: what the job prints, as on a terminal, lies elsewhere.
        Path(f'{job.work_dir}.0.out').symlink_to(bench.folder / f'{job.name}.out')
        job.start('auto')
        until(lambda: job.saved(8 if best else 12) or not job.running())
        _fill(disk / 'filler')
        until(lambda: f'could not save {what}' in job.output() or not job.running())
        (disk / 'filler').unlink()
        codes = job.wait()
        said = job.output().count('could not save')
        problem = '' if codes == [0] else f'ended with {codes}: {job.output()[-800:]}'
        if not problem and f'could not save {what}' not in job.output():
            problem = f'no save of {what} failed'
        outcome.count(problem or bench.differs(job) or bench.ends_well(job))
        outcome.notes.append(f'{said} saves failed, and the run went on')
        problem = bench.clear()  # before the disk is gone
    outcome.notes += [problem] if problem else []
    return outcome


def read_only(bench: Bench) -> Outcome:
    """The work dir becomes read-only, as disks with errors do: told, and gone on from later."""
    outcome = Outcome('work dir that becomes read-only')
    if not _can_mount(bench.folder / 'disk'):
        outcome.notes.append(NO_MOUNTS)
        return outcome
    job = bench.job(environ={SLOW_DISK: '0.05'})
    job.start('auto')
    until(lambda: job.saved(8) or not job.running())
    # Files that are open for writing forbid a change of their mount: another one is put over it.
    _mount('--bind', job.work_dir, job.work_dir)
    try:
        _mount('-o', 'remount,bind,ro', job.work_dir)
        codes = job.wait()
    finally:
        subprocess.run(['umount', '-l', job.work_dir], check=True)
    said = job.output()
    problem = '' if codes in ([0], [1]) else f'ended with {codes}: {said[-800:]}'
    if not problem and ('Read-only file system' not in said or 'Traceback' in said):
        problem = f'not told in one line: {said[-800:]}'
    outcome.count(problem or bench.ends_well(job))
    outcome.notes.append('the run went on' if codes == [0] else 'the run ended, and said why')
    return outcome


def _mount(*arguments: str | Path) -> None:
    subprocess.run(['mount', *arguments], check=True)


def _can_mount(point: Path) -> bool:
    if os.geteuid() != 0 or shutil.which('mount') is None:
        return False
    point.mkdir(exist_ok=True)
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', point], capture_output=True
    )
    if done.returncode == 0:
        subprocess.run(['umount', point], check=True)
    return done.returncode == 0


@contextmanager
def _small_disk(point: Path, megabytes: int) -> Iterator[Path]:
    _mount('-t', 'tmpfs', '-o', f'size={megabytes}m', 'tmpfs', point)
    try:
        yield point
    finally:
        subprocess.run(['umount', '-l', point], check=True)


def _fill(path: Path) -> None:
    """Write until nothing more goes on the disk."""
    with path.open('wb', buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
