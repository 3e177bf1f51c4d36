"""What all scenarios share: outcomes, the jobs of a row, and what an undisturbed run gives."""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from mirl_mm.engine.resume import is_whole

from .jobs import LIMIT, Job, processes_of, same_end
from .kinds import KINDS, Data


@dataclass
class Outcome:
    """One row of the table. A fault is survived if the job ended as it had to."""

    fault: str
    injected: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)
    noticed: float | None = None  # seconds from a fault to the end of its job, at most
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

    def took(self, seconds: float) -> None:
        """Keep the longest time in which a fault was noticed."""
        self.noticed = round(max(seconds, self.noticed or 0.0), 1)

    def add(self, other: 'Outcome') -> None:
        """Make another's faults part of this row."""
        self.injected += other.injected
        self.survived += other.survived
        self.notes += other.notes
        if other.noticed is not None:
            self.took(other.noticed)

    def to_json(self) -> dict:
        return dict(asdict(self), lost=self.lost, seconds=round(self.seconds, 1))


class Bench:
    """A folder with data, and undisturbed runs to compare with."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.data = Data(folder / 'data').write()
        self.number = 0
        self.jobs: list[Job] = []
        self.undisturbed = cache(self._undisturbed)

    def job(self, processes: int = 1, kind: str = 'MIRL', **settings) -> Job:
        self.number += 1
        environ = settings.pop('environ', {})
        folder = settings.pop('folder', self.folder)
        config = KINDS[kind].config(self.data, processes, **settings)
        name = f'job{self.number}'
        job = Job(folder, name, config, processes, environ, kind, KINDS[kind].iterations)
        self.jobs.append(job)
        return job

    def _undisturbed(self, processes: int, kind: str = 'MIRL') -> tuple[dict, float]:
        """The final state of an undisturbed run, and its seconds."""
        job = self.job(processes, kind)
        started = time.monotonic()
        job.start(None)
        codes = job.wait()
        assert codes == [0] * processes, job.output()
        return job.final(), time.monotonic() - started

    def differs(self, job: Job) -> str:
        """Empty if a job has come to the end of an undisturbed run, to the bit."""
        found = same_end(job, self.undisturbed(job.processes, job.kind)[0])
        return f'{job.name} differs in {found}' if found else ''

    def ends_well(self, job: Job) -> str:
        """Start a job until its end; empty if it is that of an undisturbed run."""
        job.start('auto')
        codes = job.wait()
        if codes != [0] * job.processes:
            return f'{job.name} ended with {codes}: {job.output()[-500:]}'
        return self.differs(job)

    def clear(self) -> str:
        """Forget the jobs of a row and remove their files; empty if they have left nothing else.

        No process of them lives 15 s later (loader workers look for their parent every 5 s); no
        file is half written, where a job came to its end.
        """
        jobs, self.jobs = self.jobs, []
        until(lambda: not processes_of(jobs), 15)
        left = [f'{len(found)} processes live on'] if (found := processes_of(jobs)) else []
        for job in jobs:
            if job.final() is not None:
                left += [str(path) for path in job.work_dir.rglob('*.part')]
                left += [str(path) for path in job.work_dir.glob('*.pth') if not is_whole(path)]
            job.clear()
        return f'left behind: {", ".join(left)}' if left else ''


def until(condition: Callable[[], object], seconds: float = LIMIT) -> float:
    """Wait until something holds, or for the time given; returns the seconds."""
    start = time.monotonic()
    while not condition() and time.monotonic() < start + seconds:
        time.sleep(0.005)
    return time.monotonic() - start


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
