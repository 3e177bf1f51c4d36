"""Jobs as users start them: tools/train.py, tools/dist_train.sh on one node and on two."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from torch.distributed.elastic.utils.distributed import get_free_port

from benchmarks.processes import family

from .bench import Bench, Outcome, until
from .jobs import LIMIT, Job, processes_of
from .kills import DEATH_LIMIT, WATCH, gives_up
from .nodes import Node, NoNodesError, TwoNodes, two_nodes
from .run import ROOT

ORPHANS = 10.0  # seconds in which the processes of a launcher that was killed have to end
ALONE = ('--resume', 'auto')


def launch(
    job: Job, arguments: tuple[str, ...] = ALONE, node: Node | None = None, **environ: object
) -> subprocess.Popen:
    """Start a job by its tool, perhaps on a node of several; the output is that of ``job``."""
    processes = 1 if node else job.processes
    inherited = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1')
    inherited |= dict(CUDA_VISIBLE_DEVICES='', PORT=get_free_port()) | (
        node.environ if node else {}
    )
    head = [sys.executable, ROOT / 'tools/train.py', job.file]
    if job.processes > 1:
        head = [ROOT / 'tools/dist_train.sh', job.file, processes]
    command = [*(node.prefix if node else ()), *head, '--work-dir', job.work_dir, *arguments]
    with open(job.folder / f'{job.name}.{environ.get("NODE_RANK", 0)}.out', 'ab') as out:
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={key: str(value) for key, value in (inherited | environ).items()},
            start_new_session=True,
        )


def reached(job: Job, process: subprocess.Popen) -> bool:
    """Wait for a new checkpoint; whether the run still goes on then."""
    before = set(job.work_dir.glob('iter_*.pth'))
    until(lambda: set(job.work_dir.glob('iter_*.pth')) - before or process.poll() is not None)
    return process.poll() is None


def ends(process: subprocess.Popen, job: Job, name: str) -> str:
    """Wait for a job's tool; empty if it ends with 0."""
    try:
        code = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        kill_all(processes_of([job]))
        code = 'none: it hung'
    return f'{name}: exit code {code}: {job.output()[-800:]}' if code else ''


def kill_all(processes: list[int]) -> None:
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def ranks(process: int) -> dict[int, int]:
    """Of a launcher's family, those that train, with their ranks; their workers (forks), too."""
    environs = {each: environ_of(each) for each in family(process)}
    return {each: int(found['RANK']) for each, found in environs.items() if 'RANK' in found}


def environ_of(process: int) -> dict[str, str]:
    """The environment a process was started with; empty if it has ended."""
    with suppress(OSError), open(f'/proc/{process}/environ', 'rb') as file:
        pairs = os.fsdecode(file.read()).split('\0')
        return dict(pair.partition('=')[::2] for pair in pairs)
    return {}


def tools(bench: Bench, processes: int) -> Outcome:
    """SIGKILL, SIGTERM, then the end."""
    script = 'train.py' if processes == 1 else 'dist_train.sh'
    outcome = Outcome(f'SIGKILL and SIGTERM, tools/{script}')
    job = bench.job(processes)
    process = launch(job)
    if reached(job, process):
        kill_all(family(process.pid))
    process.wait()
    process = launch(job)
    if reached(job, process):
        process.terminate()
    problem = ends(process, job, 'SIGTERM')
    if not problem and 'SIGTERM after' not in job.output():
        problem = 'SIGTERM came too late'
    problem = problem or ends(launch(job), job, 'the end')
    outcome.count(problem or bench.differs(job), 2)
    return outcome


def launcher_dies(bench: Bench, count: int) -> Outcome:
    """SIGKILL of torchrun: its processes end soon, though nobody ends them; then all go on."""
    outcome = Outcome(f'SIGKILL of the launcher ends its processes within {ORPHANS:g} s')
    for number in range(count):
        job = bench.job(2)
        process = launch(job)
        for _ in range(number + 1):  # checkpoints
            reached(job, process)
        process.kill()
        outcome.took(until(lambda job=job: not processes_of([job]), ORPHANS))
        problem = f'{len(left)} processes live on' if (left := processes_of([job])) else ''
        kill_all(left)
        process.wait()
        if not problem and job.final() is not None:
            problem = 'the processes went on to the end'
        outcome.count(problem or ends(launch(job), job, 'the end') or bench.differs(job))
    return outcome


def restarts(bench: Bench) -> Outcome:
    """MAX_RESTARTS=2: a process is killed, and later another; the job comes to its end alone."""
    outcome = Outcome('SIGKILL of one of 2 processes under MAX_RESTARTS=2, tools/dist_train.sh')
    job = bench.job(2)
    process = launch(job, (), MAX_RESTARTS=2)
    struck = 0
    for rank in (1, 0):
        if reached(job, process):
            kill_all([next(each for each, own in ranks(process.pid).items() if own == rank)])
            struck += 1
    problem = ends(process, job, 'the end')
    problem = problem or ('' if struck == 2 else f'{struck} of 2 were killed in time')
    outcome.count(problem or bench.differs(job), 2)
    return outcome


def on_two_nodes(bench: Bench, cut: bool) -> Outcome:
    """Two nodes with a process each: one is killed, or their link cut; then both go on."""
    what = 'link between 2 nodes cut' if cut else 'SIGKILL of one of 2 nodes, each in turn'
    outcome = Outcome(f'{what}: the job ends within {DEATH_LIMIT:g} s')
    try:
        for struck in (0,) if cut else (0, 1):
            with two_nodes() as pair:
                job = bench.job(2, default_hooks__watch=dict(type='WatchHook', timeout=WATCH))
                outcome.count(_nodes_go_on(bench, job, pair, None if cut else struck, outcome))
    except NoNodesError as reason:
        outcome.notes.append(f'{reason}: skipped')
    return outcome


def _nodes_go_on(
    bench: Bench, job: Job, pair: TwoNodes, struck: int | None, outcome: Outcome
) -> str:
    """Strike one node, or their link (None), and let both go on; empty if all was as it has to be.

    All processes that train have to end; of the launchers, which may wait for each other, nothing
    is asked.
    """
    started = _on_both(job, pair)
    if not reached(job, started[0]):
        return f'ended before it was struck: {job.output()[-800:]}'
    trained = [set(ranks(process.pid)) for process in started]
    if struck is None:
        pair.cut()
        watched = trained[0] | trained[1]
    else:
        kill_all(family(started[struck].pid))
        watched = trained[1 - struck]
    outcome.took(until(lambda: not watched & set(processes_of([job])), DEATH_LIMIT))
    problem = 'processes live on' if watched & set(processes_of([job])) else ''
    if struck is None:
        for rank in range(2):
            said = (job.folder / f'{job.name}.{rank}.out').read_text(errors='replace')
            if not gives_up(said, 1 - rank):
                problem = problem or f'node {rank} did not name the other: {said[-500:]}'
        pair.mend()
    kill_all(processes_of([job]))
    for process in started:
        process.wait()
    if problem:
        return problem
    started = _on_both(job, pair)
    problems = [ends(process, job, f'node {rank}') for rank, process in enumerate(started)]
    return next(filter(None, problems), '') or bench.differs(job)


def _on_both(job: Job, pair: TwoNodes) -> list[subprocess.Popen]:
    shared = dict(NNODES=2, MASTER_ADDR=pair.nodes[0].address, PORT=29500)
    return [
        launch(job, node=node, NODE_RANK=rank, **shared) for rank, node in enumerate(pair.nodes)
    ]
