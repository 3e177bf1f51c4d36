"""The driver: takes the next unfinished runs, and stops in time.

Every stage is a process of one thread at the lowest priority. Stopped in training it saves and goes
on from there; stopped in a probe, the probe goes on from its cached features or starts again. Both
come to the same row.
"""

import fcntl
import json
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
from mirl_mm.checkpoint.atomic import write_complete

from . import rows
from .grid import VERSION, Run
from .stages import CAMVID, CPU, SPEC, TINY, Place, Stage, row_of, spec, unfinished

STOPPING = 45.0  # seconds that a training has to save before the time is over
LOOK = 0.2  # seconds between looks
NICE = 19
ONE_THREAD = dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


@dataclass
class Job:
    """A run under way."""

    run: Run
    stage: Stage
    process: subprocess.Popen
    used: float = 0.0  # CPU seconds of the process, when last read


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
                'for it, or stop it'
            ) from error
        yield file.fileno()


def check_data(runs: Sequence[Run], data: Path) -> None:
    """FileNotFoundError for data that the runs need and that are not unpacked."""
    kinds, splits = ('images', 'annotations'), ('training', 'test')
    needed = [data / CAMVID / kind / split for kind in kinds for split in splits]
    if any(run.grid == 'tiny' or '+' in run.data for run in runs):
        needed += [data / TINY / 'train', data / TINY / 'val']
    for folder in needed:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise FileNotFoundError(
                f'no data at {folder}: unpack them to {data}/{folder.relative_to(data).parts[0]}, '
                'or give --data DIR (benchmarks/study/README.md says what they are)'
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
        ValueError: as :func:`rows.read`; or a run was begun with other settings.
    """
    deadline = time.monotonic() + seconds - STOPPING
    asked = asked or threading.Event()
    check_data(runs, place.data)
    with alone(place.work) as lock:
        finished = rows.read(file)
        waiting = deque(run for run in runs if run.name not in finished)
        for run in waiting:
            check_begun(run, place.of(run))
        active: list[Job] = []
        failed: list[str] = []

        def advance(run: Run) -> None:
            """Start the run's next stage; with none left, write its row."""
            if left := unfinished(run, place):
                active.append(start(run, left[0], place, lock))
                return
            try:
                rows.add(row_of(run, place), file)
            except (OSError, ValueError, LookupError) as error:
                failed.append(run.name)
                say(f'{run.name}: no row, {error!r}; remove {place.of(run)} to run it again')
                return
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


def check_begun(run: Run, folder: Path) -> None:
    """ValueError where the folder was begun with other settings than the grid's."""
    if not (folder / SPEC).is_file():
        return
    begun, now = json.loads((folder / SPEC).read_text()), plain(run)
    if other := rows.difference(begun, now):
        raise ValueError(f'{folder} was begun with {other}: remove it, or give another --work-dir')


def plain(run: Run) -> dict:
    """What a run is, as JSON gives it back."""
    return json.loads(json.dumps(dict(study=VERSION) | spec(run)))


def start(run: Run, stage: Stage, place: Place, lock: int) -> Job:
    """The stage's process, in a session of its own: it hears of an interruption from the driver."""
    folder = place.of(run)
    if not (folder / SPEC).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_complete(folder / SPEC, json.dumps(plain(run), indent=1).encode())
    with (folder / f'{stage.name}.log').open('ab') as log:
        process = subprocess.Popen(
            ['nice', '-n', str(NICE), sys.executable, *stage.command],
            cwd=ROOT,
            env=with_checkout() | ONE_THREAD,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            start_new_session=True,
        )
    say(f'{run.name}: {stage.name}')
    return Job(run, stage, process)


def ended(jobs: Sequence[Job], place: Place) -> list[Job]:
    """The jobs whose process has ended; of all others, what they have used is read."""
    found = []
    for job in jobs:
        give_way(job.process.pid, NICE)
        job.used = max(job.used, cpu_seconds(job.process.pid))
        if job.process.poll() is not None:
            note_cpu(job, place)
            found.append(job)
    return found


def note_cpu(job: Job, place: Place) -> None:
    """Add to the run's CPU seconds by stage."""
    file = place.of(job.run) / CPU
    found = json.loads(file.read_text()) if file.is_file() else {}
    found[job.stage.name] = round(found.get(job.stage.name, 0.0) + job.used, 1)
    write_complete(file, json.dumps(found).encode())


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
        note_cpu(job, place)
    for job in jobs:
        say(f'{job.run.name}: stopped in {job.stage.name}, goes on with the next call')


def say(text: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)
