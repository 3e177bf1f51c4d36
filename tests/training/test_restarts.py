"""A process or the launcher is killed: what tools/dist_train.sh does, on one node and on two.

The ends are compared with that of two processes that nobody disturbed, to the bit.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from torch.distributed.elastic.utils.distributed import get_free_port

from benchmarks.faults.jobs import Job, same_end
from benchmarks.faults.nodes import Node, NoNodesError, two_nodes
from benchmarks.faults.run import small_config, write_images

pytestmark = [pytest.mark.xdist_group('training'), pytest.mark.long]

ROOT = Path(__file__).parents[2]
HERE = Node([], '127.0.0.1')
STRUCK = 'TESTS_OF_RESTARTS'  # in the environment of a job's processes: its work dir


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp('restarts') / 'images')


@pytest.fixture(scope='module')
def undisturbed(images) -> dict:
    job = Job(images.parent, 'undisturbed', small_config(images, 2), 2)
    job.start()
    assert job.wait() == [0, 0], job.output()
    return job.final()


@pytest.fixture
def job(images, tmp_path):
    """A job of two processes in which a rank, or its launcher, is killed at iteration 14."""

    def job(rank: int, launcher: bool = False) -> Job:
        strike = dict(type='Strike', file=str(tmp_path / 'struck'), rank=rank, iteration=14)
        config = small_config(images, 2)
        config.custom_hooks.append(dict(strike, launcher=launcher))
        config.custom_imports = dict(imports=['mirl_mm', 'striking'], allow_failed_imports=False)
        return Job(tmp_path, 'job', config, 2)

    return job


def start(job: Job, node: Node = HERE, **where: str) -> subprocess.Popen:
    environ = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable, CUDA_VISIBLE_DEVICES='')
    environ |= node.environ if node.prefix else {}
    environ |= {STRUCK: str(job.work_dir), 'PYTHONPATH': str(Path(__file__).parent)}
    environ |= dict(PORT=str(get_free_port())) | where
    processes = 1 if node.prefix else 2
    command = [*node.prefix, ROOT / 'tools/dist_train.sh', job.file, processes]
    command += ['--work-dir', job.work_dir]
    with open(f'{job.work_dir}.0.out', 'ab') as out:
        return subprocess.Popen(
            [str(part) for part in command], env=environ, stdout=out, stderr=subprocess.STDOUT
        )


def processes_of(job: Job) -> list[str]:
    """Process ids of all that are alive, loader workers as well."""
    mark, found = f'{STRUCK}={job.work_dir}\0'.encode(), []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if mark in (process / 'environ').read_bytes():
                found.append(process.name)
        except OSError:  # it has ended
            continue
    return found


def restarted(job: Job, undisturbed: dict) -> None:
    assert (job.folder / 'struck').is_file() and same_end(job, undisturbed) == ''
    log = job.log()
    assert log.count('resuming from ') == 1 and 'starting anew' in log


@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process_restarts_the_job(rank, job, undisturbed):
    job = job(rank)
    run = start(job, MAX_RESTARTS='1')
    assert run.wait(200) == 0, job.output()[-4000:]
    restarted(job, undisturbed)
    assert job.log().count('restart 1 by torchrun') == 1


@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process_restarts_both_nodes(rank, job, undisturbed):
    job = job(rank)
    with ExitStack() as stack:
        try:
            nodes = stack.enter_context(two_nodes()).nodes
        except NoNodesError as error:
            pytest.skip(str(error))
        where = dict(NNODES='2', MASTER_ADDR=nodes[0].address, PORT='29500', MAX_RESTARTS='2')
        runs = [start(job, node, **where, NODE_RANK=str(k)) for k, node in enumerate(nodes)]
        assert [run.wait(200) for run in runs] == [0, 0], job.output()[-4000:]
    restarted(job, undisturbed)


def test_a_killed_launcher_takes_its_processes_along(job, undisturbed):
    job = job(0, launcher=True)
    run = start(job, MAX_RESTARTS='1')
    assert run.wait(100) == -9, job.output()[-4000:]
    killed = time.monotonic()
    while (left := processes_of(job)) and time.monotonic() < killed + 15:
        time.sleep(0.05)
    assert not left, left
    assert start(job, MAX_RESTARTS='1').wait(100) == 0, job.output()[-4000:]
    restarted(job, undisturbed)
