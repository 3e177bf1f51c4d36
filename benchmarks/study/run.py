"""The driver: takes the next unfinished runs, and stops in time.

Every stage is a process of one thread at the lowest priority. Stopped in training it saves and goes
on from there; stopped in a probe, the probe goes on from its cached features or starts again. Both
come to the same row.
"""

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.processes import ROOT, end, with_checkout

from . import rows
from .grid import Run
from .stages import CAMVID, TINY, Place, Stage, row_of, unfinished

STOPPING = 45.0  # seconds that a training has to save before the time is over
LOOK = 0.2  # seconds between looks
NICE = 19
WEIGHTS = ('train', 'pretrain', 'all', 'few', 'probe/features')  # not kept behind a row


class Job(NamedTuple):
    """A run under way."""

    run: Run
    stage: Stage
    process: subprocess.Popen


class Busy(OSError):
    """Another driver, or what it has left running, works in the folder."""


@contextmanager
def alone(work: Path) -> Iterator[int]:
    """Hold the work dir; the descriptor is for the children, which hold it too while they live.

    Raises:
        Busy: somebody holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'lock').open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f'{work} is in use by another driver (or a run that a killed one has left): wait '
                'for it, or give another --work-dir'
            ) from error
        yield file.fileno()


def check_data(runs: Sequence[Run], data: Path) -> None:
    """FileNotFoundError for data that the runs need and that are not unpacked."""
    needed = [data / CAMVID / 'images/training', data / CAMVID / 'annotations/test']
    if any(run.grid == 'tiny' or '+' in run.data for run in runs):
        needed += [data / TINY / 'train', data / TINY / 'val']
    for folder in needed:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise FileNotFoundError(
                f'no data at {folder}: unpack them to {data}/{folder.relative_to(data).parts[0]}, '
                'or give --data DIR (benchmarks/README.md says what they are)'
            )


def work(
    runs: Sequence[Run], place: Place, seconds: float, jobs: int = 1, file: Path = rows.ROWS
) -> list[str]:
    """Run what has no row yet, as far as the time goes.

    Returns:
        Names of the runs that failed.

    Raises:
        Busy: as :func:`alone`.
        FileNotFoundError: as :func:`check_data`.
        ValueError: as :func:`rows.read`.
    """
    deadline = time.monotonic() + seconds - STOPPING
    check_data(runs, place.data)
    waiting = deque(run for run in runs if run.name not in rows.read(file))
    active: list[Job] = []
    failed: list[str] = []
    with alone(place.work) as lock:
        try:
            while time.monotonic() < deadline and (waiting or active):
                while waiting and len(active) < jobs:
                    active += advance(waiting.popleft(), place, lock, file)
                time.sleep(LOOK)
                for job in [job for job in active if job.process.poll() is not None]:
                    active.remove(job)
                    if any(place.of(job.run).glob(job.stage.made)):
                        active += advance(job.run, place, lock, file)
                    else:
                        failed.append(job.run.name)
                        say(f'{job.run.name}: {job.stage.name} failed, see {log_of(job, place)}')
        finally:
            stop(active)
    return failed


def advance(run: Run, place: Place, lock: int, file: Path) -> list[Job]:
    """Start the run's next stage; with none left, write its row."""
    left = unfinished(run, place)
    if left:
        return [start(run, left[0], place, lock)]
    rows.add(row_of(run, place), file)
    for name in WEIGHTS:
        shutil.rmtree(place.of(run) / name, ignore_errors=True)
    say(f'{run.name}: done')
    return []


def start(run: Run, stage: Stage, place: Place, lock: int) -> Job:
    environment = with_checkout() | dict(
        OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''
    )
    place.of(run).mkdir(parents=True, exist_ok=True)
    with (place.of(run) / f'{stage.name}.log').open('ab') as log:
        process = subprocess.Popen(
            ['nice', '-n', str(NICE), sys.executable, *stage.command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        )
    say(f'{run.name}: {stage.name}')
    return Job(run, stage, process)


def stop(jobs: Sequence[Job]) -> None:
    """SIGTERM: trainings save. What has not ended when the time is over is killed."""
    for job in jobs:
        job.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + STOPPING
    for job in jobs:
        try:
            job.process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            end(job.process.pid)
            job.process.wait()
        say(f'{job.run.name}: stopped in {job.stage.name}, goes on with the next call')


def log_of(job: Job, place: Place) -> Path:
    return place.of(job.run) / f'{job.stage.name}.log'


def say(text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)
