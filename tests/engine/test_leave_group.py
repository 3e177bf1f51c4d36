"""A process of several leaves its group before its interpreter ends."""

import ctypes
import os
import resource
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks.faults.run import small_config, write_images
from mirl_mm.engine.stopping import leave_group
from tests.processes import CLEAN, TOOLS, run_forked

LENGTH = dict(train_cfg__max_iters=3, train_cfg__val_interval=3)


@pytest.fixture
def group():
    """Of this process alone; how many threads there were before."""
    before = len(threads())
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield before
    if dist.is_initialized():
        dist.destroy_process_group()


def threads() -> list[str]:
    """As the kernel names those of this process; a new one has its parent's name."""
    return sorted(Path(file).read_text().strip() for file in Path('/proc/self/task').glob('*/comm'))


# --- alone ----------------------------------------------------------------------------------------


def test_without_a_group_there_is_nothing_to_leave():
    leave_group()
    assert not dist.is_initialized()


def test_all_groups_are_left_with_their_threads(group):
    dist.new_group(backend='gloo')
    assert len(threads()) >= group + 4
    leave_group()
    assert not dist.is_initialized()
    assert len(threads()) <= group  # (one of torch's own may have ended meanwhile)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_waits_for_nobody(group, error):
    """It is for the exception hook, which ends the process at once."""
    with pytest.raises(error):
        try:
            raise error
        finally:
            leave_group()
    assert dist.is_initialized()


def test_the_frames_of_an_orderly_end_hold_no_group(group):
    def run() -> None:
        held = dist.new_group(backend='gloo')
        raise SystemExit(0 if held else 1)

    with pytest.raises(SystemExit, match='0'):
        try:
            run()
        finally:
            leave_group()
            left = len(threads())
    assert left <= group


class Late(torch.Tensor):
    """Takes half a second to be let go of by a thread, and the interpreter to be taken down."""

    falling = False

    def __del__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            Late.falling = True
            for _ in range(500):
                time.sleep(0.001)


class SlowEnd:
    """Keeps the interpreter for half a second of its end; globals are gone by then."""

    def __init__(self) -> None:
        self.sleep = ctypes.PyDLL(None).usleep

    def __del__(self) -> None:
        self.sleep(500_000)


def _end_early(leaves: bool) -> None:
    """End the interpreter while a thread of gloo lets go of a tensor."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(60)
    sys.modules['slow_end'] = SlowEnd()
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    while not Late.falling:  # which of two threads lets go last is chance
        tensor = torch.zeros(1).as_subclass(Late)
        dist.all_reduce(tensor)
        del tensor
        time.sleep(0.002)
    if leaves:
        leave_group()
    ctypes.pythonapi.Py_Exit(0)


@pytest.mark.parametrize(('leaves', 'code'), [(True, 0), (False, -signal.SIGABRT)])
def test_a_thread_that_lets_go_late_aborts_only_who_has_not_left(leaves, code):
    process = CLEAN.Process(target=_end_early, args=(leaves,))
    process.start()
    process.join()
    assert process.exitcode == code


# --- two processes, by the user's tool ------------------------------------------------------------


@HOOKS.register_module()
class StopSecond(Hook):
    """SIGTERM for the second process alone."""

    def after_train_iter(self, runner, batch_idx, **_) -> None:
        if runner.rank == 1 and runner.iter == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def run_tool(tool: str) -> None:
    """And say what is left of it."""
    try:
        runpy.run_path(str(TOOLS / tool), run_name='__main__')
    except SystemExit as stop:
        print('left by SystemExit', stop.code)
    print('threads:', *threads(), dist.is_initialized())


@pytest.mark.skipif(os.environ.get('OMP_NUM_THREADS') != '1', reason="torch's own threads stay")
@pytest.mark.parametrize('asked', [False, True])
def test_nothing_is_left_of_a_training(asked, tmp_path):
    images = write_images(tmp_path / 'images', count=8)
    cfg = small_config(images, processes=2, by_epoch=False, workers=int(asked), **LENGTH)
    cfg.custom_hooks = [dict(type='StopSecond')] if asked else []
    cfg.dump(tmp_path / 'config.py')
    script = tmp_path / 'then.py'
    script.write_text('import tests.engine.test_leave_group as t\nt.run_tool("train.py")\n')
    arguments = (tmp_path / 'config.py', '--work-dir', tmp_path / 'run')
    for printed in run_forked(str(script), *arguments, cwd=tmp_path, processes=2):
        *_, code, last = printed.splitlines()
        assert last == 'threads: python False'
        assert (code == 'left by SystemExit 0') == asked
