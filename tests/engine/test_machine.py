import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mirl_mm.engine import machine
from mirl_mm.engine.machine import (
    pin_batches,
    scale_lr,
    set_launcher,
    set_precision,
    world_size,
)
from mirl_mm.errors import UserError

TINY = str(Path(__file__).parents[1] / 'data' / 'mae-tiny.py')

# --- precision ------------------------------------------------------------------------------------


def precision(wrapper, **kwargs):
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW'), **wrapper)))
    notes = set_precision(cfg, **kwargs)
    cfg.optim_wrapper.pop('optimizer')
    return cfg.optim_wrapper.to_dict(), notes


AMP = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))
FP16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


def test_amp_takes_bfloat16_and_else_float16_with_a_loss_scale():
    plain = dict(type='OptimWrapper', accumulative_counts=2)
    got = precision(plain, amp=True, accelerator=True, bfloat16=True)
    assert got == (dict(AMP, accumulative_counts=2), [])
    assert precision({}, amp=True, accelerator=True, bfloat16=False) == (FP16, [])
    assert precision(plain, amp=False, accelerator=True, bfloat16=True) == (plain, [])


def test_amp_is_off_without_a_gpu_with_one_message():
    for wrapper, amp in [
        (AMP, False),
        (AMP, True),
        (FP16, False),
        (dict(type='OptimWrapper'), True),
    ]:
        got, notes = precision(wrapper, amp=amp, accelerator=False, bfloat16=False)
        assert got == dict(type='OptimWrapper')
        assert len(notes) == 1 and 'AMP is switched off' in notes[0]


def test_bfloat16_becomes_float16_where_the_gpu_lacks_it():
    got, notes = precision(AMP, amp=False, accelerator=True, bfloat16=False)
    assert got == FP16
    assert len(notes) == 1 and 'no bfloat16' in notes[0]
    assert precision(FP16, amp=False, accelerator=True, bfloat16=False) == (FP16, [])


def test_amp_refuses_other_wrappers():
    with pytest.raises(ValueError, match='has DeepSpeedOptimWrapper'):
        precision(dict(type='DeepSpeedOptimWrapper'), amp=True, accelerator=True, bfloat16=True)


# --- learning rate --------------------------------------------------------------------------------


def test_auto_scale_lr_counts_processes_and_accumulation():
    cfg = Config.fromfile(TINY)  # lr 0.0016 for a batch of 16; batch 2, accumulation 2
    notes = scale_lr(cfg, processes=8)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.0016 * 2 * 8 * 2 / 16)
    assert '0.0016 -> 0.0032' in notes[0] and '= 32, base_batch_size 16' in notes[0]
    # mmengine's own scaling must not run again, and a second call must change nothing
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=32, base_lr=0.0032)
    scale_lr(cfg, processes=8)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.0032)


def test_auto_scale_lr_needs_its_base():
    cfg = Config.fromfile(TINY)
    cfg.pop('auto_scale_lr')
    with pytest.raises(ValueError, match='base_batch_size'):
        scale_lr(cfg, processes=1)


# --- launcher -------------------------------------------------------------------------------------


def test_world_size_is_the_launchers():
    environ = dict(WORLD_SIZE='4', SLURM_NTASKS='8', OMPI_COMM_WORLD_SIZE='2')
    sizes = {name: world_size(name, environ) for name in ('none', 'pytorch', 'slurm', 'mpi')}
    assert sizes == dict(none=1, pytorch=4, slurm=8, mpi=2)
    with pytest.raises(ValueError, match='WORLD_SIZE is not in the environment; torchrun'):
        world_size('pytorch', {})
    with pytest.raises(ValueError, match='accepted are none, pytorch, slurm, mpi'):
        world_size('ray', environ)


def test_launcher_on_a_cpu_takes_gloo():
    ddp = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )
    cfg = Config.fromfile(TINY)
    assert set_launcher(cfg, 'none', accelerator=True) == []
    assert 'model_wrapper_cfg' not in cfg
    assert set_launcher(cfg, 'pytorch', accelerator=True) == []
    assert cfg.env_cfg.dist_cfg.backend == 'nccl'
    assert cfg.model_wrapper_cfg == ddp
    assert len(set_launcher(cfg, 'pytorch', accelerator=False)) == 1
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == dict(ddp, device_ids=None)
    with pytest.raises(ValueError, match="'slurm' needs GPUs"):
        set_launcher(cfg, 'slurm', accelerator=False)


def test_own_settings_of_the_wrapper_win():
    cfg = Config.fromfile(TINY)
    cfg.find_unused_parameters = True
    cfg.model_wrapper_cfg = dict(gradient_as_bucket_view=False, static_graph=True)
    set_launcher(cfg, 'pytorch', accelerator=True)
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        gradient_as_bucket_view=False,
        static_graph=True,
    )
    other = dict(type='MMFullyShardedDataParallel', use_orig_params=True)
    for accelerator in (True, False):
        cfg.model_wrapper_cfg = other
        set_launcher(cfg, 'pytorch', accelerator)
        assert cfg.model_wrapper_cfg == other


def test_a_sharded_optimizer_needs_processes():
    cfg = Config.fromfile(TINY)
    cfg.optim_wrapper.optimizer.update(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')
    with pytest.raises(ValueError, match=r'there is one: .*dist_train\.sh, or take .*type=AdamW'):
        set_launcher(cfg, 'none', accelerator=True)
    assert set_launcher(cfg, 'pytorch', accelerator=True) == []


# --- copies ---------------------------------------------------------------------------------------


def test_batches_are_pinned_where_there_is_a_gpu():
    loaders = dict(
        train_dataloader=dict(batch_size=2),
        val_dataloader=None,
        test_dataloader=dict(pin_memory=False),
    )
    cfg = Config(loaders)
    pin_batches(cfg, accelerator=False)
    assert cfg.to_dict() == loaders
    pin_batches(cfg, accelerator=True)
    assert cfg.train_dataloader == dict(batch_size=2, pin_memory=True)
    assert cfg.test_dataloader == dict(pin_memory=False) and cfg.val_dataloader is None


# --- threads --------------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch):
    """What a run on 8 cores sets, of which so many are free."""
    chosen = []
    monkeypatch.setattr(machine, 'THREADS_GIVEN', False)
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    monkeypatch.setattr(machine, 'cores', lambda: 8)
    monkeypatch.setattr(machine.torch, 'set_num_threads', chosen.append)

    def choose(elements: int, free: float, kept: int | None = None) -> tuple[int, list[str]]:
        monkeypatch.setattr(machine, 'free_cores', lambda count: min(free, count))
        notes = machine.set_threads(elements, kept)
        return chosen.pop(), notes

    yield choose
    assert chosen == []


def test_threads_follow_the_work_the_cores_and_the_neighbours(threads):
    demo, s12 = 16 * 65 * 64, 64 * 197 * 384
    assert threads(4 * 17 * 48, free=8) == (1, [])
    assert threads(demo, free=8) == (2, [])
    assert threads(s12, free=7.8) == (8, [])
    assert threads(s12, free=4.5)[0] == 4
    number, notes = threads(demo, free=1.33)  # two of ours and another on two cores
    assert number == 1 and 'threads: 1 instead of 2: other processes' in notes[0]
    assert threads(demo, free=0.2)[0] == 1


def test_a_resumed_run_keeps_its_threads(threads):
    assert threads(10, free=0.1, kept=6) == (6, [])
    assert threads(10, free=0.1, kept=64) == (8, [])


def test_omp_num_threads_wins(monkeypatch):
    monkeypatch.setattr(machine, 'THREADS_GIVEN', True)
    monkeypatch.setattr(machine.torch, 'set_num_threads', None)
    assert machine.set_threads(10**9) == []


def test_cores_are_shared_and_measured(monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda _: set(range(10)))
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert machine.cores() == 10
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert machine.cores() == 2
    assert 0 < machine.free_cores(1) < 1.1


@pytest.mark.parametrize(('free', 'spare'), [(4, 4), (3.7, 4), (2.5, 2), (1.33, 1), (0.1, 1)])
def test_spare_cores_are_those_that_are_free(free, spare, monkeypatch):
    monkeypatch.setattr(machine, 'cores', lambda: 4)
    monkeypatch.setattr(machine, 'free_cores', lambda count: min(free, count))
    assert machine.spare_cores(8) == spare
    assert machine.spare_cores(1) == 1


# --- processes ------------------------------------------------------------------------------------


def test_processes_find_their_places_and_the_first_the_terminal(tmp_path, capfd):
    def work(rank: int, number: int) -> None:
        print(f'from {rank}', flush=True)
        names = ('RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'OMP_NUM_THREADS')
        (tmp_path / str(rank)).write_text(' '.join(os.environ[name] for name in names))

    machine.in_processes(2, work)
    assert [(tmp_path / name).read_text() for name in '01'] == ['0 2 2 1', '1 2 2 1']
    assert 'from 1' not in capfd.readouterr().out
    assert 'RANK' not in os.environ


def missing_file(rank: int, number: int) -> None:
    raise FileNotFoundError('no such file: x')


def test_one_that_fails_ends_the_others():
    def work(rank: int, number: int) -> None:
        if rank:
            raise UserError('that is wrong')
        time.sleep(100)

    started = time.perf_counter()
    with pytest.raises(UserError, match=r'^that is wrong$'):
        machine.in_processes(2, work)
    with pytest.raises(UserError, match=r'^no such file: x$'):
        machine.in_processes(2, missing_file)
    with pytest.raises(UserError, match=r'ZeroDivisionError: division by zero$'):
        machine.in_processes(2, lambda rank, number: 1 / 0 if rank else time.sleep(100))
    assert time.perf_counter() - started < 50
    assert multiprocessing.active_children() == []


def test_ctrl_c_ends_all_of_them(request):
    # (a shell's job in the background ignores it)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))

    def work(rank: int, number: int) -> None:
        if rank:
            time.sleep(0.2)
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(100)

    with pytest.raises(KeyboardInterrupt):
        machine.in_processes(2, work)
    time.sleep(0.2)
    assert multiprocessing.active_children() == []
