"""Jobs of one or two processes that are started, hit and compared with an undisturbed one."""

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from torch.distributed.elastic.utils.distributed import get_free_port

from .run import ITERATIONS, start

LIMIT = 120.0  # seconds after which a job counts as hanging


@dataclass
class Job:
    """A config, its work dir and its processes, which are forked from this one.

    Attributes:
        kind: of run, by its name in kinds.py.
        iterations: after which it ends.
        attempts: the exit codes of every start.
        groups: the process groups of every start.
    """

    folder: Path
    name: str
    config: Config
    processes: int = 1
    environ: dict[str, str] = field(default_factory=dict)
    kind: str = 'MIRL'
    iterations: int = ITERATIONS
    attempts: list[str] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.work_dir = self.folder / self.name
        self.file = self.folder / f'{self.name}.py'
        self.config.dump(self.file)

    def start(self, resume: str | None = 'auto') -> None:
        assert not self.children, 'the job is running'
        self.children = start(
            self.file, self.work_dir, resume, self.processes, get_free_port(), self.environ
        )
        self.groups += self.children

    def kill(self, number: int = signal.SIGKILL, ranks: list[int] | None = None) -> None:
        """Send a signal to the processes of some ranks, None for all (not to loader workers)."""
        for rank, child in enumerate(self.children):
            if ranks is None or rank in ranks:
                os.kill(child, number)

    def wait(self, seconds: float = LIMIT) -> list[int] | None:
        """Exit codes, negative for signals; None if it was still running then, and was ended."""
        codes: dict[int, int] = {}
        end, late = time.monotonic() + seconds, False
        while len(codes) < len(self.children) and not late:
            late = time.monotonic() > end  # then a last look, should this process have been stopped
            for child in self.children:
                if child not in codes:
                    done, status = os.waitpid(child, os.WNOHANG)
                    if done:
                        codes[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        hung = [child for child in self.children if child not in codes]
        for child in hung:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        ordered, self.children = [codes.get(child) for child in self.children], []
        self.attempts.append('hung' if hung else str(ordered))
        return None if hung else ordered

    def running(self) -> bool:
        """Whether all processes are still there."""
        return all(alive(child) for child in self.children)

    def output(self) -> str:
        """What all processes have written to the terminal."""
        files = sorted(self.folder.glob(f'{self.name}.?.out'))
        return ''.join(file.read_text(errors='replace') for file in files)

    def saved(self, iteration: int) -> bool:
        """Whether there is a checkpoint of an iteration."""
        return (self.work_dir / f'iter_{iteration}.pth').is_file()

    def log(self) -> str:
        """What is in the log files of all starts."""
        files = sorted(self.work_dir.glob('*/*.log'))
        return ''.join(file.read_text(errors='replace') for file in files)

    def clear(self) -> None:
        shutil.rmtree(self.work_dir, ignore_errors=True)

    def final(self) -> dict | None:
        """The state at the end of the run; None if it is not there."""
        path = self.work_dir / f'iter_{self.iterations}.pth'
        if not path.is_file():
            return None
        return torch.load(path, map_location='cpu', weights_only=False)


def hit(job: Job, delay: float, ranks: list[int] | None = None) -> bool:
    """SIGKILL a running job after a delay; False if it ended before."""
    end = time.monotonic() + delay
    while time.monotonic() < end:
        if not job.running():
            return False
        time.sleep(0.002)
    return _kill_if_running(job, ranks)


def hit_saving(job: Job, which: int, delay: float) -> bool:
    """SIGKILL a job a moment after it has begun to write a file; False if it ended before.

    Args:
        job: running.
        which: of its files, from 1 on.
        delay: seconds.
    """
    seen: set[str] = set()
    while job.running():
        with suppress(FileNotFoundError):  # it has only just been started
            seen |= {name for name in os.listdir(job.work_dir) if name.endswith('.part')}
        if len(seen) >= which:
            time.sleep(delay)
            return _kill_if_running(job, None)
        time.sleep(0.0005)
    return False


def _kill_if_running(job: Job, ranks: list[int] | None) -> bool:
    if not job.running():
        return False
    job.kill(ranks=ranks)
    return True


def alive(child: int) -> bool:
    """Whether a child has not ended (it stays waitable)."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def processes_of(jobs: list[Job]) -> list[int]:
    """What lives of some jobs: of their process groups, or with their config on its command line.

    Ended ones that nobody has waited for are not counted.
    """
    groups = {group for job in jobs for group in job.groups}
    files = [os.fsencode(job.file) for job in jobs]
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):  # it has just ended
            state, _, group = (folder / 'stat').read_text().rpartition(')')[2].split()[:3]
            command = (folder / 'cmdline').read_bytes()
            if state not in 'ZX' and (int(group) in groups or any(f in command for f in files)):
                found.append(int(folder.name))
    return found


def different(one: object, other: object, path: str = '') -> str:
    """Where two nested states differ in any bit; empty where they are equal."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype
        return '' if same and torch.equal(one, other) else path
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return path
        pairs = [(one[key], other[key], f'{path}.{key}') for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return path
        pairs = [(a, b, f'{path}.{i}') for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return '' if one == other else path
    return next((found for pair in pairs if (found := different(*pair))), '')


TRAINED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def same_end(job: Job, reference: dict) -> str:
    """Empty if weights, averages, optimizer and schedules are the reference's to the bit."""
    state = job.final()
    if state is None:
        return 'the run has no end'
    found = (different(reference.get(key), state.get(key), key) for key in TRAINED)
    return next((each for each in found if each), '')
