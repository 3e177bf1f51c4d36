"""A loader worker ends with the run that started it, whatever it is doing."""

import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.faults.bench import until
from benchmarks.faults.jobs import processes_of
from mirl_mm.engine.stopping import start_worker

LARGE = 1 << 20  # bytes of a sample, more than a pipe takes


def load(told: int) -> None:
    """Takes one of many batches, in a process group of its own; the worker waits with the next."""
    os.setpgid(0, 0)
    start = partial(start_worker, None, torch.zeros(1))
    samples = [bytes(LARGE)] * 8
    loader = DataLoader(samples, num_workers=1, collate_fn=list, worker_init_fn=start)
    batches = iter(loader)
    next(batches)
    os.write(told, b'1')
    time.sleep(60)


@pytest.mark.skipif(sys.platform != 'linux', reason='it is the kernel of Linux that ends workers')
def test_a_worker_that_hands_over_a_batch_does_not_outlive_its_run():
    """Nobody reads its pipe any more, and for that it would wait for good."""
    tell, told = os.pipe()
    run = os.fork()
    if run == 0:
        try:
            load(told)
        finally:
            os._exit(1)
    os.close(told)
    job = SimpleNamespace(groups=[run], file='no config')
    try:
        assert os.read(tell, 1) == b'1' and len(processes_of([job])) == 2
        os.kill(run, signal.SIGKILL)
        until(lambda: not processes_of([job]), 15)
        assert not processes_of([job])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run, signal.SIGKILL)
        os.waitpid(run, 0)
        os.close(tell)
