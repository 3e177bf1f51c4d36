"""A job in which one process freezes ends with its name; one that has work left alone does not."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks.faults import jobs
from benchmarks.faults.jobs import Job
from benchmarks.faults.nodes import NoNodesError, two_nodes
from benchmarks.faults.run import ROOT, small_config, write_images
from tests.processes import in_clean_process

pytestmark = pytest.mark.xdist_group('faults')
TIMEOUT = 3


@HOOKS.register_module()
class LongEnd(Hook):
    """The first process has more to do than the others, for longer than a timeout."""

    def after_train(self, runner):
        time.sleep(1.5 * TIMEOUT * is_main_process())


def job(folder: Path, **options: object) -> Job:
    images = write_images(folder / 'images')
    watch = dict(default_hooks__watch__timeout=TIMEOUT)
    return Job(folder, 'job', small_config(images, 2, workers=0, **watch, **options), processes=2)


def freeze(folder: Path, rank: int, launcher: bool = False) -> tuple[int, float, int, str, str]:
    """Code and seconds of the other one; the frozen one's pid, what the other said, and the log.

    With a launcher, the job's store is not the first process's.
    """
    hit = job(folder, train_cfg__max_epochs=1000)
    if launcher:
        limit = timedelta(seconds=60)
        store = dist.TCPStore('127.0.0.1', 0, None, True, limit, wait_for_workers=False)
        jobs.get_free_port = lambda: store.port  # (in a process of our own)
        hit.environ |= dict(TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RUN_ID='none')
    hit.start()
    while not list(hit.work_dir.glob('iter_4.pth')):
        assert hit.running()
        time.sleep(0.02)
    frozen = hit.children[rank]
    hit.kill(signal.SIGSTOP, [rank])
    start = time.monotonic()
    while (seconds := time.monotonic() - start) < 30 and hit.running():
        time.sleep(0.02)
    hit.kill(signal.SIGKILL, [rank])
    code = hit.wait(1)[1 - rank]
    said = (folder / f'job.{1 - rank}.out').read_text()
    return code, seconds, frozen, said, hit.log()


def end_alone(folder: Path) -> tuple[list[int] | None, str]:
    whole = job(folder, custom_hooks=[dict(type='LongEnd')])
    whole.start()
    return whole.wait(), whole.output()


def check(found: tuple, rank: int, who: str) -> None:
    code, seconds, pid, said, log = found
    line = rf'process {1 - rank} of 2: error: {who} has not answered for {TIMEOUT} s \(frozen.*\n'
    assert re.findall(line.replace('WHO', rf'{socket.gethostname()}, pid {pid}'), said), said
    assert code == 1 and 0.9 * TIMEOUT < seconds < TIMEOUT + 5
    assert ('has not answered' in log) == (rank == 1)  # the log is the first process's


def test_a_frozen_process_is_named(tmp_path):
    check(in_clean_process(freeze, tmp_path, 1), 1, r'process 1 of 2 \(WHO\)')


@pytest.mark.long
def test_a_frozen_first_process_is_named(tmp_path):
    check(in_clean_process(freeze, tmp_path, 0, True), 0, r'process 0 of 2 \(WHO\)')


@pytest.mark.long
def test_a_store_that_freezes_with_the_first_process_is_named(tmp_path):
    who = r"the store at 127\.0\.0\.1:\d+ \(process 0's machine: WHO\)"
    check(in_clean_process(freeze, tmp_path, 0), 0, who)


@pytest.mark.long
def test_work_of_the_first_process_alone_is_no_silence(tmp_path):
    codes, said = in_clean_process(end_alone, tmp_path)
    assert codes == [0, 0] and 'answered' not in said


@pytest.mark.long
def test_both_sides_of_a_cut_network_end_and_name_the_other(tmp_path):
    cut = job(tmp_path, train_cfg__max_epochs=1000)
    command = [ROOT / 'tools/dist_train.sh', cut.file, '1', '--work-dir', cut.work_dir]
    with ExitStack() as stack:
        try:
            network = stack.enter_context(two_nodes())
        except NoNodesError as error:
            pytest.skip(str(error))
        ends = []
        for rank, node in enumerate(network.nodes):
            where = dict(MASTER_ADDR=network.nodes[0].address, PORT='29500', PYTHON=sys.executable)
            where |= dict(node.environ, NNODES='2', NODE_RANK=str(rank), OMP_NUM_THREADS='1')
            out = stack.enter_context((tmp_path / f'job.{rank}.out').open('w'))
            end = subprocess.Popen(
                [*node.prefix, *command], env=os.environ | where, stdout=out, stderr=out
            )
            stack.callback(end.kill)
            ends.append(end)
        while not list(cut.work_dir.glob('iter_4.pth')):
            assert [end.poll() for end in ends] == [None, None], cut.output()
            time.sleep(0.1)
        network.cut()
        assert [end.wait(TIMEOUT + 40) for end in ends] == [1, 1]
    silent = rf'has not answered for {TIMEOUT} s'
    said = cut.output()
    assert re.search(rf'process 0 of 2: error: process 1 of 2 \(.*, pid \d+\) {silent}', said)
    assert re.search(
        rf"process 1 of 2: error: the store .* \(process 0's machine.*\) {silent}", said
    )
