"""Processes that are killed, fail, are asked to stop or stand still, in any kind of run."""

import os
import re
import signal
import time

from benchmarks.processes import family

from .bench import Bench, Outcome, until
from .jobs import alive, hit, hit_saving
from .kinds import KINDS
from .run import ERROR, SLOW_DISK

DEATH_LIMIT = 40.0  # seconds in which a job has to end when one of its processes has died
WATCH = 5  # seconds after which a process that stands still is given up
WATCH_LIMIT = 20.0  # seconds in which the job has to end then


def kills(
    bench: Bench, count: int, processes: int, kind: str = 'MIRL', saving: bool = False
) -> Outcome:
    """SIGKILL of all processes at random moments of a run, again and again."""
    where = 'while saving' if saving else 'at a random moment'
    outcome = Outcome(f'SIGKILL {where}, {kind}, {processes} process{"es" * (processes > 1)}')
    _, duration = bench.undisturbed(processes, kind)
    environ = {SLOW_DISK: '0.05'} if saving else {}
    faults, job = 0, bench.job(processes, kind, environ=environ)
    files = max(2, KINDS[kind].iterations // 3)
    while outcome.injected + faults < count:
        job.start('auto')
        if saving:
            struck = hit_saving(job, bench.random.randint(1, files), bench.random.uniform(0, 0.12))
        else:
            struck = hit(job, bench.random.uniform(0.2, 1.0) * duration)
        faults += struck
        codes = job.wait()
        if struck or codes != [0] * processes:
            if codes is None or any(code not in (0, -signal.SIGKILL) for code in codes):
                outcome.count(f'{job.name} ended with {codes}: {job.output()[-500:]}', faults)
                faults, job = 0, bench.job(processes, kind, environ=environ)
        else:  # it came to its end
            if faults:
                outcome.count(bench.ends_well(job), faults)
            faults, job = 0, bench.job(processes, kind, environ=environ)
    if faults:
        outcome.count(bench.ends_well(job), faults)
    return outcome


def one_of_two_dies(bench: Bench, count: int, kind: str = 'MIRL') -> Outcome:
    """SIGKILL of one process: the other ends by itself, soon; then both go on."""
    outcome = Outcome(f'SIGKILL of one of 2 processes ends the other within {DEATH_LIMIT:g} s')
    _, duration = bench.undisturbed(2, kind)
    while outcome.injected < count:
        job = bench.job(2, kind)
        job.start('auto')
        if not hit(job, bench.random.uniform(0.4, 0.9) * duration, [bench.random.randrange(2)]):
            job.wait()
            continue
        started = time.monotonic()
        codes = job.wait(DEATH_LIMIT)
        outcome.took(time.monotonic() - started)
        outcome.count('the other process went on' if codes is None else bench.ends_well(job))
    return outcome


def one_of_two_fails(bench: Bench) -> Outcome:
    """An exception on one process: its traceback, the end of the other; then both go on."""
    outcome = Outcome(f'exception on one of 2 processes ends the other within {DEATH_LIMIT:g} s')
    job = bench.job(2, environ={ERROR: '1,17'})
    job.start('auto')
    until(lambda: 'failed:' in job.output() or not job.running())
    started = time.monotonic()
    codes = job.wait(DEATH_LIMIT)
    outcome.took(time.monotonic() - started)
    problem = '' if codes and codes[1] == 1 and codes[0] != 0 else f'exit codes {codes}'
    said = (job.folder / f'{job.name}.1.out').read_text()
    words = ('process 1 of 2 failed:\nTraceback', 'ArithmeticError: an injected error')
    if not problem and not all(word in said for word in words):
        problem = f'no traceback: {said[-500:]}'
    job.environ = {}
    outcome.count(problem or bench.ends_well(job))
    return outcome


def preemption(bench: Bench, count: int, processes: int, kind: str = 'MIRL') -> Outcome:
    """SIGTERM to all processes of the job, loader workers too: exit code 0, and no step is lost."""
    outcome = Outcome(f'SIGTERM, {kind}, {processes} process{"es" * (processes > 1)}')
    _, duration = bench.undisturbed(processes, kind)
    while outcome.injected < count:
        job = bench.job(processes, kind)
        job.start('auto')
        end = time.monotonic() + bench.random.uniform(0, 0.5) * duration
        log = ''
        while job.running() and (time.monotonic() < end or '(train)' not in log):
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


def every_way(bench: Bench, kind: str) -> Outcome:
    """All of the above but the exception, over another kind of run."""
    outcome = Outcome(f'{kind}: SIGKILL of 1, 2 and one of 2 processes, while saving, SIGTERM')
    if KINDS[kind].lacks:
        outcome.notes.append(KINDS[kind].lacks)
        return outcome
    outcome.add(kills(bench, 3, 1, kind))
    outcome.add(kills(bench, 2, 1, kind, saving=True))
    outcome.add(kills(bench, 2, 2, kind))
    outcome.add(one_of_two_dies(bench, 1, kind))
    outcome.add(preemption(bench, 1, 1, kind))
    outcome.add(preemption(bench, 1, 2, kind))
    return outcome


def worker_dies(bench: Bench, processes: int) -> Outcome:
    """SIGKILL of a loader worker, as the kernel does where memory is short: an error that says so.

    It is one of the last process; the others end within the time of a process that dies.
    """
    outcome = Outcome(f'SIGKILL of a loader worker, {processes} process{"es" * (processes > 1)}')
    job = bench.job(processes, environ={SLOW_DISK: '0.05'})
    job.start('auto')
    until(lambda: job.saved(8) or not job.running())
    workers = family(job.children[-1])[1:]
    for worker in workers[:1]:
        os.kill(worker, signal.SIGKILL)
    started = time.monotonic()
    codes = job.wait(DEATH_LIMIT)
    outcome.took(time.monotonic() - started)
    problem = '' if workers else 'there was no worker'
    if not problem and (codes is None or 0 in codes):
        problem = f'exit codes {codes}: {job.output()[-500:]}'
    elif not problem and 'is killed by signal: Killed' not in job.output():
        problem = f'it was not said: {job.output()[-500:]}'
    outcome.count(problem or bench.ends_well(job))
    return outcome


def frozen(bench: Bench) -> Outcome:
    """SIGSTOP of one of two processes, each in turn: the other ends, with its name."""
    outcome = Outcome(f'SIGSTOP of one of 2 processes ends the other within {WATCH_LIMIT:g} s')
    for rank in range(2):
        watch = dict(type='WatchHook', timeout=WATCH)
        job = bench.job(2, environ={SLOW_DISK: '0.05'}, default_hooks__watch=watch)
        job.start('auto')
        until(lambda job=job: job.saved(8) or not job.running())
        job.kill(signal.SIGSTOP, [rank])
        other = job.children[1 - rank]
        outcome.took(until(lambda other=other: not alive(other), WATCH_LIMIT))
        gone = not alive(other)
        job.kill(signal.SIGKILL, [rank])  # as the launcher does when the other has ended
        codes = job.wait()
        problem = '' if gone and codes[1 - rank] == 1 else f'exit codes {codes}, {gone=}'
        if not problem and not gives_up(job.output(), rank):
            problem = f'not named: {job.output()[-500:]}'
        outcome.count(problem or bench.ends_well(job))
    return outcome


def gives_up(output: str, rank: int) -> bool:
    """Whether a process has said which other of two, or of its machine, does not answer."""
    who = rf"process {rank} of 2 \(|process {rank}'s machine"
    return re.search(f'({who}).* has not answered for', output) is not None
