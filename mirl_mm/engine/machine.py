"""Fit a run to the machine it is on: precision, processes, learning rate, threads.

Functions that take a config change it in place and return the messages, if any, for the log.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import pbkdf2_hmac
from multiprocessing import active_children

import torch
from mmengine.config import Config
from mmengine.device import get_device
from rich.console import Console
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.multiprocessing.spawn import ProcessException, start_processes

from mirl_mm.errors import UserError, reason_of

# By launcher: where it says how many processes there are, which this is, and what starts them.
_STARTERS = dict(
    pytorch=('WORLD_SIZE', 'RANK', 'torchrun (tools/dist_train.sh)'),
    slurm=('SLURM_NTASKS', 'SLURM_PROCID', 'srun'),
    mpi=('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'mpirun'),
)
LAUNCHERS = ('none', *_STARTERS)
THREADS_GIVEN = 'OMP_NUM_THREADS' in os.environ  # later MMEngine may set it, without effect
GRAIN = 32_768  # elements that pay for a thread: the fewest that torch splits


def world_size(launcher: str, environ: Mapping[str, str] = os.environ) -> int:
    """Number of processes that the launcher started; UserError where it did not start us."""
    if launcher not in LAUNCHERS:
        raise UserError(f'unknown launcher {launcher!r}; accepted are {", ".join(LAUNCHERS)}')
    if launcher == 'none':
        return 1
    name, _, starter = _STARTERS[launcher]
    if name not in environ:
        lacks = f'{name} is not in the environment; {starter} sets it'
        raise UserError(f'launcher {launcher!r}, but {lacks}')
    return int(environ[name])


def rank(launcher: str, environ: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those that the launcher started."""
    return 0 if launcher == 'none' else int(environ.get(_STARTERS[launcher][1], 0))


def has_accelerator() -> bool:
    """Whether there is a device on which mmengine can train in mixed precision."""
    return get_device() not in ('cpu', 'mps')


def has_bfloat16() -> bool:
    """Whether the accelerator computes in bfloat16 itself (torch also counts emulation)."""
    return get_device() != 'cuda' or torch.cuda.get_device_capability()[0] >= 8


def set_precision(cfg: Config, amp: bool, accelerator: bool, bfloat16: bool) -> list[str]:
    """Turn mixed precision on where ``amp`` asks for it, and off or to float16 where it must be."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    kind = kind if isinstance(kind, str) else kind.__name__
    if amp and kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp needs an OptimWrapper or AmpOptimWrapper; this config has {kind}')
    if not amp and kind != 'AmpOptimWrapper':
        return []
    if not accelerator:
        wrapper.type = 'OptimWrapper'
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)
        return ['AMP is switched off: this machine has no GPU; training in float32']
    if kind == 'OptimWrapper':  # bfloat16 has float32's range: a loss scale would only add work
        wrapper.update(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))
    if bfloat16 or wrapper.get('dtype') != 'bfloat16':
        return []
    wrapper.update(dtype='float16', loss_scale='dynamic')
    note = 'this GPU has no bfloat16: training in float16 with a dynamic loss scale'
    return [note] if kind == 'AmpOptimWrapper' else []


def pin_batches(cfg: Config, accelerator: bool) -> None:
    """Batches in pinned memory are copied while the host goes on; own settings of loaders win."""
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if accelerator and cfg.get(key):
            cfg[key].setdefault('pin_memory', True)


def set_launcher(cfg: Config, launcher: str, accelerator: bool) -> list[str]:
    """Set the launcher and how processes exchange gradients; without an accelerator, over gloo.

    DDP's gradients are views of its buckets, which saves a copy of all of them. Settings of the
    config's own ``model_wrapper_cfg`` win.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
        if optimizer.get('type') == 'ZeroRedundancyOptimizer':
            other = f'optim_wrapper.optimizer.type={optimizer.get("optimizer_type", "AdamW")}'
            why = 'ZeroRedundancyOptimizer spreads its state over processes, and there is one'
            raise UserError(f'{why}: start with tools/dist_train.sh, or take {other}')
        return []
    if not accelerator and launcher != 'pytorch':
        works = f'on a CPU the launcher "pytorch" works ({_STARTERS["pytorch"][2]})'
        raise UserError(f'launcher {launcher!r} needs GPUs, and this machine has none; {works}')
    kind, unused = 'MMDistributedDataParallel', cfg.get('find_unused_parameters', False)
    ddp = dict(broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused)
    wrapper = dict(cfg.get('model_wrapper_cfg') or {})
    if wrapper.get('type', kind) == kind:
        # By itself, mmengine passes the local rank, which a CPU's model refuses.
        wrapper = dict(ddp, type=kind) | wrapper | ({} if accelerator else dict(device_ids=None))
    cfg.model_wrapper_cfg = wrapper
    if accelerator:
        return []
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    notes = [f'{launcher} launcher without a GPU: gloo backend, running on the CPU']
    if cfg.get('sync_bn'):
        cfg.sync_bn = None
        notes.append('sync_bn is switched off: torch has it on GPUs alone; each process has its BN')
    return notes


def start_gloo(cfg: Config) -> None:
    """Open the process group that mmengine cannot open without a GPU (it sets a CUDA device)."""
    if cfg.launcher == 'pytorch' and not has_accelerator():
        settings = cfg.env_cfg.dist_cfg
        timeout = timedelta(seconds=settings.get('timeout', 1800))
        torch.distributed.init_process_group(backend=settings.backend, timeout=timeout)


def scale_lr(cfg: Config, processes: int) -> list[str]:
    """Scale the learning rate linearly from ``auto_scale_lr.base_batch_size`` to the real batch.

    mmengine leaves out the accumulation, so its own scaling is switched off; the base becomes the
    real batch, so that scaling the result once more (a dumped config) changes nothing.
    """
    scaling, wrapper = cfg.get('auto_scale_lr') or {}, cfg.optim_wrapper
    if not (base := scaling.get('base_batch_size')):
        what = 'auto_scale_lr.base_batch_size in the config: the batch that its rate is meant for'
        raise UserError(f'--auto-scale-lr needs {what}')
    if 'optimizer' not in wrapper:
        given = ', '.join(wrapper)
        raise UserError(f'--auto-scale-lr needs optim_wrapper.optimizer, but has only {given}')
    batch, accumulation = cfg.train_dataloader.batch_size, accumulative_counts(cfg)
    real, before = batch * processes * accumulation, wrapper.optimizer.lr
    wrapper.optimizer.lr = after = before * real / base
    scaling.update(enable=False, base_batch_size=real)
    if 'base_lr' in scaling:
        scaling.base_lr *= real / base
    factors = f'batch {batch} x processes {processes} x accumulation {accumulation} = {real}'
    return [f'learning rate {before:g} -> {after:g}: {factors}, base_batch_size {base}']


def accumulative_counts(cfg: Config) -> int:
    """Micro-batches for one optimizer step."""
    return cfg.optim_wrapper.get('accumulative_counts', 1)


def cores() -> int:
    """Cores for a CPU run, its share where it is one of several; where there is a GPU, 1."""
    allowed = 1 if has_accelerator() else len(os.sched_getaffinity(0))
    return max(allowed // int(os.environ.get('LOCAL_WORLD_SIZE', 1)), 1)


def free_cores(count: int) -> float:
    """CPU time over wall time of ``count`` busy threads: what neighbours and quotas leave."""
    wall, used = time.perf_counter(), time.process_time()

    def work(_: int) -> None:
        while time.perf_counter() < wall + 0.1:
            pbkdf2_hmac('sha256', b'', b'', 10_000)  # some ms without the interpreter's lock

    with ThreadPoolExecutor(count) as pool:
        pool.map(work, range(count))
    return (time.process_time() - used) / (time.perf_counter() - wall)


def spare_cores(most: int) -> int:
    """So many of our cores as are free now, from 1 to ``most``."""
    most = min(most, cores())
    return most if most == 1 else min(most, max(int(free_cores(most) + 0.4), 1))


def set_threads(elements: int, kept: int | None = None) -> list[str]:
    """Set the threads of a CPU run, if not OMP_NUM_THREADS or the run that is resumed (kept) does.

    One for GRAIN ``elements`` of a layer (images x tokens x width), but not more than cores, nor
    than are free: threads wait for each other in a loop, two on one core are slower than one.
    """
    if has_accelerator() or THREADS_GIVEN:
        return []
    most = min(kept or max(elements // GRAIN, 1), cores())
    found = most if kept else spare_cores(most)
    torch.set_num_threads(found)
    busy = 'other processes keep the cores busy; OMP_NUM_THREADS sets another number'
    return [f'threads: {found} instead of {most}: {busy}'] if found < most else []


def in_processes(number: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(rank, number)`` in so many processes of one thread, told what torchrun tells.

    The first alone has the terminal. One that fails, Ctrl-C or the end of this process ends all.
    """
    if number == 1:
        return work(0, 1)
    try:  # forked: nothing is imported again, or pickled
        start_processes(_one, (get_free_port(), number, work), number, start_method='fork')
    except ProcessException as error:  # its text ends with the child's traceback
        raise UserError(str(error).strip().rpartition('.UserError: ')[2]) from error
    finally:
        for process in active_children():
            process.kill()
        Console().show_cursor()  # a live line hides it


def _one(rank: int, port: int, number: int, work: Callable[[int, int], None]) -> None:
    place = dict(MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS=1, MKL_NUM_THREADS=1)
    place |= dict.fromkeys(('WORLD_SIZE', 'LOCAL_WORLD_SIZE'), number)
    os.environ.update({k: str(v) for k, v in place.items()}, MASTER_ADDR='127.0.0.1')
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # sent when the parent ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # sent when another has failed
    if rank:
        sys.stdout = sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    try:
        work(rank, number)
    except Exception as error:
        if reason := reason_of(error):
            raise UserError(reason) from None
        raise
