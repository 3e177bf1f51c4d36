"""The driver: takes the next unfinished runs, and stops in time.

Every stage is a process of one thread at the lowest priority. Stopped in training it saves and goes
on from there; stopped in a probe, the probe goes on from its cached features or starts again. Both
come to the same row.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, cpu_seconds, end, give_way, with_checkout
from mirl_mm.files import check_folder

from . import rows
from .begun import begun, note_code, note_cpu
from .grid import CAMVID_IMAGES, DEMO_IMAGES, Run
from .results import row_of
from .stages import CAMVID, SCENES, TINY, Place, Stage, unfinished

STOPPING = 45.0  # seconds that a training has to save before the time is over
LOOK = 0.2  # seconds between looks
NOTE = 30.0  # CPU seconds of a process between notes of them
FILES = {  # below the data folder
    f'{TINY}/train': 35_000,
    f'{TINY}/val': 5_000,
    f'{CAMVID}/images/training': CAMVID_IMAGES,
    f'{CAMVID}/annotations/training': CAMVID_IMAGES,
    f'{CAMVID}/images/test': 233,
    f'{CAMVID}/annotations/test': 233,
    f'{SCENES}/images/unlabelled': DEMO_IMAGES,
    f'{SCENES}/images/train': 256,
    f'{SCENES}/images/val': 128,
}
NICE = 19
ONE_THREAD = dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


@dataclass
class Job:
    """A run under way."""

    run: Run
    stage: Stage
    process: subprocess.Popen
    before: float = 0.0  # CPU seconds that the stage has used in earlier processes
    used: float = 0.0  # and in this one, when last read
    noted: float = 0.0  # of these


class Busy(OSError):
    """Another driver, or what it has left running, works in the folder."""


@contextmanager
def alone(work: Path) -> Iterator[int]:
    """Hold the work dir; the descriptor is for the children, which hold it too while they live.

    Raises:
        Busy: somebody holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'lock').open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Busy(
                f'{work} is in use by another driver, process {file.read() or "unknown"} (or by a '
                'run that it has left): wait for it, or stop it'
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def check_data(runs: Sequence[Run], data: Path) -> None:
    """FileNotFoundError for data that the runs need and that are not all unpacked."""
    needed = {name for run in runs for name in sources(run)}
    for name, files in FILES.items():
        folder, source = data / name, name.split('/')[0]
        if source not in needed:
            continue
        found = sum(len(names) for _, _, names in os.walk(folder, followlinks=True))
        if found != files:
            raise FileNotFoundError(
                f'{found or "no"} files of {files:,} at {folder}: unpack them to '
                f'{data / source}, or give --data DIR (benchmarks/study/README.md says '
                'what they are, and what draws scenes)'
            )


def sources(run: Run) -> set[str]:
    """What a run reads, below the data folder."""
    if run.grid == 'demo':
        return {SCENES}
    return {CAMVID, TINY} if run.grid != 'camvid' or '+' in run.data else {CAMVID}


def check_paths(place: Place) -> None:
    """ValueError for folders whose names do not come through --cfg-options as they are."""
    for option, folder in (('--work-dir', place.work), ('--data', place.data)):
        if set(str(folder)) & set(' ,()[]'):
            raise ValueError(
                f'{str(folder)!r} has a space, a comma or a bracket, which --cfg-options does not '
                f'leave as it is: give another {option}'
            )


def work(
    runs: Sequence[Run],
    place: Place,
    seconds: float,
    jobs: int = 1,
    file: Path = rows.ROWS,
    asked: threading.Event | None = None,
) -> list[str]:
    """Run what has no row yet, as far as the time goes.

    Args:
        runs: in this order.
        place: folders.
        seconds: to be back within.
        jobs: runs at a time.
        file: of the rows.
        asked: set from outside, to stop earlier.

    Returns:
        Names of the runs that failed.

    Raises:
        Busy: as :func:`alone`.
        FileNotFoundError: as :func:`check_data`.
        OSError: rows cannot be written.
        ValueError: as :func:`rows.read`, :func:`begun` and :func:`check_paths`.
    """
    deadline = time.monotonic() + seconds - STOPPING
    asked = asked or threading.Event()
    check_paths(place)
    check_data(runs, place.data)
    check_folder(file.parent)
    with alone(place.work) as lock:
        finished = rows.read(file)
        waiting = deque(run for run in runs if run.name not in finished)
        for run in waiting:
            begun(run, place.of(run))
        active: list[Job] = []
        failed: list[str] = []

        def advance(run: Run) -> None:
            """Start the run's next stage; with none left, write its row."""
            if left := unfinished(run, place):
                active.append(start(run, left[0], place, lock))
                return
            try:
                row = row_of(run, place)
            except (OSError, ValueError, LookupError) as error:
                failed.append(run.name)
                say(f'{run.name}: no row, {error!r}; remove {place.of(run)} to run it again')
                return
            rows.add(row, file)  # where it cannot, the folder stays for the next call
            shutil.rmtree(place.of(run), ignore_errors=True)  # nothing of it is kept behind a row
            say(f'{run.name}: done')

        try:
            while time.monotonic() < deadline and not asked.is_set() and (waiting or active):
                while waiting and len(active) < jobs:
                    advance(waiting.popleft())
                asked.wait(LOOK)
                for job in ended(active, place):
                    active.remove(job)
                    if any(place.of(job.run).glob(job.stage.made)):
                        advance(job.run)
                    else:
                        failed.append(job.run.name)
                        log = place.of(job.run) / f'{job.stage.name}.log'
                        say(f'{job.run.name}: {job.stage.name} ended before it was done, see {log}')
        finally:
            stop(active, place)
    return failed


def start(run: Run, stage: Stage, place: Place, lock: int) -> Job:
    """The stage's process.

    In a session of its own: it hears of an interruption from the driver. Where the driver is
    killed, it is told to stop.
    """
    folder = place.of(run)
    notes = note_code(run, folder)
    low = ['setpriv', '--pdeathsig', 'TERM', 'nice', '-n', str(NICE)]
    with (folder / f'{stage.name}.log').open('ab') as log:
        process = subprocess.Popen(
            [*low, sys.executable, *stage.command],
            cwd=ROOT,
            env=with_checkout() | ONE_THREAD,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            start_new_session=True,
        )
    say(f'{run.name}: {stage.name}')
    return Job(run, stage, process, notes['cpu_seconds'].get(stage.name, 0.0))


def ended(jobs: Sequence[Job], place: Place) -> list[Job]:
    """The jobs whose process has ended; of all, what they have used is read, and noted."""
    found = []
    for job in jobs:
        give_way(job.process.pid, NICE)
        job.used = max(job.used, cpu_seconds(job.process.pid))
        over = job.process.poll() is not None
        if over or job.used - job.noted >= NOTE:
            note(job, place)
        found += [job] if over else []
    return found


def note(job: Job, place: Place) -> None:
    note_cpu(job.run, place.of(job.run), job.stage.name, job.before + job.used)
    job.noted = job.used


def stop(jobs: Sequence[Job], place: Place) -> None:
    """SIGTERM: trainings save. What has not ended when the time is over is killed."""
    for job in jobs:
        job.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + STOPPING
    left = list(jobs)
    while left and time.monotonic() < until:
        for job in ended(left, place):
            left.remove(job)
        time.sleep(LOOK)
    for job in left:
        end(job.process.pid)
        job.process.wait()
        note(job, place)
    for job in jobs:
        say(f'{job.run.name}: stopped in {job.stage.name}, goes on with the next call')


def say(text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)
