"""The faults, one function each: strike a job, let it go on, look at how it ends."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch.distributed.elastic.utils.distributed import get_free_port

from .jobs import LIMIT, TRAINED, Job, different, hit, hit_saving, same_end
from .run import ERROR, NAN, ROOT, SLOW_DISK, small_config, write_images

DEATH_LIMIT = 40.0  # seconds in which a job has to end when one of its processes has died


@dataclass
class Outcome:
    """One row of the table. A fault is survived if the job ended as it had to."""

    fault: str
    injected: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return self.injected - self.survived

    def count(self, problem: str, faults: int = 1) -> None:
        """Add faults, survived unless there is a problem to tell."""
        self.injected += faults
        self.survived += 0 if problem else faults
        if problem:
            self.notes.append(problem)

    def to_json(self) -> dict:
        return dict(asdict(self), lost=self.lost, seconds=round(self.seconds, 1))


class Bench:
    """A folder with images, and undisturbed runs to compare with."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.images = write_images(folder / 'images')
        self.number = 0
        self.undisturbed = cache(self._undisturbed)

    def job(self, processes: int = 1, by_epoch: bool = True, **settings) -> Job:
        self.number += 1
        environ = settings.pop('environ', {})
        images = settings.pop('images', self.images)
        folder = settings.pop('folder', self.folder)
        config = small_config(images, processes, by_epoch, **settings)
        return Job(folder, f'job{self.number}', config, processes, environ)

    def _undisturbed(self, processes: int, by_epoch: bool) -> tuple[dict, float]:
        """The final state of an undisturbed run, and its seconds."""
        job = self.job(processes, by_epoch)
        started = time.monotonic()
        job.start(None)
        codes = job.wait()
        assert codes == [0] * processes, job.output()
        return job.final(), time.monotonic() - started

    def ends_well(self, job: Job) -> str:
        """Start a job until its end; empty if it is that of an undisturbed run."""
        job.start('auto')
        codes = job.wait()
        if codes != [0] * job.processes:
            return f'{job.name} ended with {codes}: {job.output()[-500:]}'
        by_epoch = 'Epoch' in job.config.train_cfg.type
        found = same_end(job, self.undisturbed(job.processes, by_epoch)[0])
        return f'{job.name} differs in {found}' if found else ''


def kills(bench: Bench, count: int, processes: int, by_epoch: bool, saving: bool) -> Outcome:
    """SIGKILL of all processes at random moments of a run, again and again."""
    kind = 'epochs' if by_epoch else 'iterations'
    where = 'while saving' if saving else f'at a random moment, by {kind}'
    outcome = Outcome(f'SIGKILL {where}, {processes} process{"es" * (processes > 1)}')
    _, duration = bench.undisturbed(processes, by_epoch)
    environ = {SLOW_DISK: '0.05'} if saving else {}
    faults, job = 0, bench.job(processes, by_epoch, environ=environ)
    while outcome.injected + faults < count:
        job.start('auto')
        if saving:
            struck = hit_saving(job, bench.random.randint(1, 12), bench.random.uniform(0, 0.12))
        else:
            struck = hit(job, bench.random.uniform(0.2, 1.0) * duration)
        faults += struck
        codes = job.wait()
        if struck or codes != [0] * processes:
            if codes is None or any(code not in (0, -signal.SIGKILL) for code in codes):
                outcome.count(f'{job.name} ended with {codes}: {job.output()[-500:]}', faults)
                faults, job = 0, bench.job(processes, by_epoch, environ=environ)
        else:  # it came to its end
            if faults:
                outcome.count(bench.ends_well(job), faults)
            faults, job = 0, bench.job(processes, by_epoch, environ=environ)
    if faults:
        outcome.count(bench.ends_well(job), faults)
    return outcome


def one_of_two_dies(bench: Bench, count: int) -> Outcome:
    """SIGKILL of one process: the other ends by itself, soon; then both go on."""
    outcome = Outcome(f'SIGKILL of one of 2 processes ends the other within {DEATH_LIMIT:g} s')
    _, duration = bench.undisturbed(2, True)
    longest = 0.0
    while outcome.injected < count:
        job = bench.job(2)
        job.start('auto')
        if not hit(job, bench.random.uniform(0.4, 0.9) * duration, [bench.random.randrange(2)]):
            job.wait()
            continue
        started = time.monotonic()
        codes = job.wait(DEATH_LIMIT)
        longest = max(longest, time.monotonic() - started)
        problem = 'the other process went on' if codes is None else bench.ends_well(job)
        outcome.count(problem)
    outcome.notes.append(f'the other process ended after {longest:.1f} s at most')
    return outcome


def one_of_two_fails(bench: Bench) -> Outcome:
    """An exception on one process: its traceback, the end of the other; then both go on."""
    outcome = Outcome(f'exception on one of 2 processes ends the other within {DEATH_LIMIT:g} s')
    job = bench.job(2, environ={ERROR: '1,17'})
    job.start('auto')
    _until(lambda: 'failed:' in job.output() or not job.running())
    started = time.monotonic()
    codes = job.wait(DEATH_LIMIT)
    longest = time.monotonic() - started
    problem = '' if codes and codes[1] == 1 and codes[0] != 0 else f'exit codes {codes}'
    said = (job.folder / f'{job.name}.1.out').read_text()
    words = ('process 1 of 2 failed:\nTraceback', 'ArithmeticError: an injected error')
    if not problem and not all(word in said for word in words):
        problem = f'no traceback: {said[-500:]}'
    job.environ = {}
    outcome.count(problem or bench.ends_well(job))
    outcome.notes.append(f'the other process ended after {longest:.1f} s')
    return outcome


def preemption(bench: Bench, count: int, processes: int) -> Outcome:
    """SIGTERM to all processes of the job, loader workers too: exit code 0, and no step is lost."""
    outcome = Outcome(f'SIGTERM, {processes} process{"es" * (processes > 1)}')
    _, duration = bench.undisturbed(processes, True)
    while outcome.injected < count:
        job = bench.job(processes)
        job.start('auto')
        end = time.monotonic() + bench.random.uniform(0, 0.5) * duration
        log = ''
        while job.running() and (time.monotonic() < end or 'Epoch(train)' not in log):
            log = job.log()
            time.sleep(0.02)
        if not job.running():
            job.wait()
            continue
        for child in job.children:
            os.killpg(child, signal.SIGTERM)
        codes = job.wait()
        said = 'SIGTERM after' in job.output()
        problem = '' if codes == [0] * processes else f'exit codes {codes}: {job.output()[-500:]}'
        if not problem and not said and job.final() is None:
            problem = 'no message'
        outcome.count(problem or bench.ends_well(job))
    return outcome


def truncation(bench: Bench, count: int) -> Outcome:
    """The newest checkpoint is cut at a random byte: the one before is taken, and that is said."""
    outcome = Outcome('newest checkpoint cut short')
    _, duration = bench.undisturbed(1, True)
    while outcome.injected < count:
        job = bench.job()
        job.start('auto')
        hit(job, bench.random.uniform(0.6, 0.95) * duration)
        job.wait()
        pointer = job.work_dir / 'last_checkpoint'
        if len(list(job.work_dir.glob('iter_*.pth'))) < 2 or not pointer.is_file():
            continue
        newest = Path(pointer.read_text())
        content = newest.read_bytes()
        newest.write_bytes(content[: bench.random.randrange(len(content))])
        problem = bench.ends_well(job)
        if not problem and f'{newest} is cut short: passing over it' not in job.log():
            problem = 'it was not said'
        outcome.count(problem)
    return outcome


def full_disk(bench: Bench) -> Outcome:
    """The disk fills up in the middle of a run, and gets room again before its end."""
    mounted = _can_mount(bench.folder / 'disk')
    outcome = Outcome('disk full while saving' if mounted else 'no room for a file while saving')
    if not mounted:
        outcome.notes.append('no tmpfs can be mounted here (it needs root): skipped')
        return outcome
    with _small_disk(bench.folder / 'disk', megabytes=4) as disk:
        job = bench.job(folder=disk, environ={SLOW_DISK: '0.05'})
        job.start('auto')
        _until(lambda: (job.work_dir / 'iter_8.pth').is_file() or not job.running())
        _fill(disk / 'filler')
        _until(lambda: 'could not save' in job.log() or not job.running())
        (disk / 'filler').unlink()
        codes = job.wait()
        said = job.log().count('could not save')
        problem = '' if codes == [0] else f'ended with {codes}: {job.output()[-800:]}'
        if not problem and not said:
            problem = 'no save failed'
        if not problem:
            found = same_end(job, bench.undisturbed(1, True)[0])
            problem = f'differs in {found}' if found else ''
        outcome.count(problem)
        outcome.notes.append(f'{said} saves failed, and the run went on')
    return outcome


def not_finite(bench: Bench) -> Outcome:
    """NaN in the output of a block: the run stops and names it, and goes on without it."""
    outcome = Outcome('NaN in the output of block 2 at iteration 17')
    job = bench.job(environ={NAN: '0,2,17'})
    job.start('auto')
    codes = job.wait()
    out = job.output()
    words = ('iteration 17', 'backbone.layers.2', 'segment_1', 'iter_16.pth')
    missing = [word for word in words if word not in out]
    problem = '' if codes == [1] and not missing else f'exit {codes}, not named: {missing}'
    job.environ = {}
    outcome.count(problem or bench.ends_well(job))
    return outcome


def corrupt_images(bench: Bench) -> Outcome:
    """1 % of 200 images are cut short: counted, listed, replaced, also after a kill."""
    outcome = Outcome('1 % corrupt images')
    images = write_images(bench.folder / 'spoilt', 0.01, 200)
    ends = []
    for struck in (False, True):
        # 50 iterations a pass: the three passes of the others are a bit more than half a one here
        job = bench.job(images=images, train_cfg__max_epochs=1)
        job.start('auto')
        if struck:
            _until(lambda job=job: (job.work_dir / 'iter_28.pth').is_file() or not job.running())
            job.kill()
            job.wait()
            job.start('auto')
        codes = job.wait()
        listed = (job.work_dir / 'bad_images.txt').read_text().splitlines()
        ends.append((codes, sorted(line.partition('\t')[0] for line in listed), job.work_dir))
    (first, names, one), (second, again, two) = ends
    problem = '' if first == second == [0] else f'exit codes {first} and {second}'
    expected = [str(images / f'{i:04d}.png') for i in range(2)]
    if not problem and not names == again == expected:
        problem = f'listed {names} and {again}'
    log = ''.join(path.read_text() for path in one.glob('*/*.log'))
    if not problem and '2 of 200 (1.00%) so far' not in log:
        problem = 'not counted'
    outcome.count(problem or _same_files(one, two, 'iter_50.pth'), 2)
    return outcome


def tools(bench: Bench, processes: int) -> Outcome:
    """tools/train.py or dist_train.sh as users start them: SIGKILL, SIGTERM, then the end."""
    script = 'train.py' if processes == 1 else 'dist_train.sh'
    outcome = Outcome(f'SIGKILL and SIGTERM, tools/{script}')
    job = bench.job(processes)
    environ = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    environ[SLOW_DISK] = '0'

    def start() -> subprocess.Popen:
        head = [sys.executable, ROOT / 'tools/train.py', job.file]
        if processes > 1:
            environ['PORT'] = str(get_free_port())
            head = [ROOT / 'tools/dist_train.sh', job.file, processes]
        command = [*head, '--work-dir', job.work_dir, '--resume', 'auto']
        with open(bench.folder / f'{job.name}.0.out', 'ab') as out:
            return subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )

    def reached(process: subprocess.Popen) -> bool:
        """Wait for a new checkpoint; whether the run still goes on then."""
        before = set(job.work_dir.glob('iter_*.pth'))
        _until(lambda: set(job.work_dir.glob('iter_*.pth')) - before or process.poll() is not None)
        return process.poll() is None

    problem = ''
    process = start()
    if reached(process):
        for member in _family(process.pid):  # torchrun's processes have sessions of their own
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
    process.wait()
    process = start()
    if reached(process):
        process.terminate()
    if (code := process.wait(LIMIT)) != 0:
        problem = f'SIGTERM: exit code {code}: {job.output()[-800:]}'
    elif 'SIGTERM after' not in job.output():
        problem = 'SIGTERM came too late'
    if not problem and (code := start().wait(LIMIT)) != 0:
        problem = f'exit code {code}: {job.output()[-800:]}'
    if not problem:
        found = same_end(job, bench.undisturbed(processes, True)[0])
        problem = f'differs in {found}' if found else ''
    outcome.count(problem, 2)
    return outcome


def _same_files(one: Path, two: Path, name: str) -> str:
    states = [torch.load(path / name, weights_only=False) for path in (one, two)]
    found = (different(states[0][key], states[1][key], key) for key in TRAINED)
    return next((f'differs in {f}' for f in found if f), '')


def _family(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for parent in found:
        below = subprocess.run(['pgrep', '-P', str(parent)], capture_output=True, text=True)
        found += map(int, below.stdout.split())
    return found


def _until(condition: Callable[[], bool], seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


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
    point.mkdir(exist_ok=True)
    options = f'size={megabytes}m'
    subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', point], check=True)
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


def write_table(outcomes: list[Outcome]) -> str:
    """Faults injected, survived, lost."""
    width = max(len(name) for name in ('fault', *(outcome.fault for outcome in outcomes)))
    rows = [f'{"fault":<{width}}  injected  survived  lost']
    for each in outcomes:
        row = f'{each.fault:<{width}}  {each.injected:>8}  {each.survived:>8}  {each.lost:>4}'
        rows.append(row)
        rows += [f'    {note}' for note in each.notes]
    total = [
        sum(getattr(each, key) for each in outcomes) for key in ('injected', 'survived', 'lost')
    ]
    rows.append(f'{"all":<{width}}  {total[0]:>8}  {total[1]:>8}  {total[2]:>4}')
    return '\n'.join(rows)
