"""What a run is: batch, rate, parameters, precision, hardware, versions; said, and written down."""

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date, datetime
from importlib import import_module
from math import isclose
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models import BaseSelfSupervisor
from torch import nn
from torch.utils.data import DataLoader

import mirl_mm
from mirl_mm.errors import UserError
from mirl_mm.files import write_json
from mirl_mm.models.segments import unwrapped

from .runner import FOR_TERMINAL

FILE = 'run.json'
SOURCE = Path(mirl_mm.__file__).parents[1]
PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mirl_mm')


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Say what a run is before its first step, and write it down: ``run.json`` beside its log.

    The table is for the terminal too, with a warning where learning rate and batch do not fit. The
    file, which the report reads, has command, config, versions, git state of this package, hardware
    and the numbers; at the end come the seconds and the most memory that tensors held on a GPU.

    Args:
        base_lr: Learning rate for a batch of ``base_batch_size``. None takes both from
            ``auto_scale_lr``; without them there is no check.
        base_batch_size: The batch that ``base_lr`` is for.
        show: Log the table, and what does not fit; False writes the file alone.
    """

    priority = 'LOWEST'  # when the other hooks have settled, CheckpointHook its folder

    def __init__(
        self, base_lr: float | None = None, base_batch_size: int = 256, show: bool = True
    ) -> None:
        if base_lr is not None and base_lr <= 0:
            raise UserError(f'base_lr must be positive or None, got {base_lr}')
        if base_batch_size <= 0:
            raise UserError(f'base_batch_size must be positive, got {base_batch_size}')
        self.base_lr, self.base_batch_size, self.show = base_lr, base_batch_size, show

    def before_train(self, runner: Runner) -> None:
        facts = self.record = facts_of(runner, 'train') | training_facts(runner)
        factors = 'batch {batch} x processes {processes} x accumulation {accumulation}'
        base = dict(runner.cfg.get('auto_scale_lr') or {})
        if self.base_lr is not None:
            base = dict(base_lr=self.base_lr, base_batch_size=self.base_batch_size)
        how, warning = explain_lr(
            facts['learning_rate'],
            facts['effective_batch'],
            base.get('base_lr'),
            base.get('base_batch_size'),
        )
        rows = [
            *parameter_rows(runner.model),
            ('effective batch', f'{facts["effective_batch"]:,} = {factors.format(**facts)}'),
            ('learning rate', how),
            *schedule_rows(runner, facts),
            ('checkpoints', checkpoints(runner)),
            ('precision', facts['precision']),
            ('device', device()),
        ]
        if self.show:
            runner.logger.info('Run summary\n' + table(rows), extra=FOR_TERMINAL)
        if self.show and warning:
            runner.logger.warning(warning)
        self._write(runner)

    def before_test(self, runner: Runner) -> None:
        self.record = facts_of(runner, 'test')
        self._write(runner)

    def after_train(self, runner: Runner) -> None:
        now = datetime.now().astimezone()
        seconds = now - datetime.fromisoformat(self.record['started'])
        self.record |= dict(finished=now.isoformat(), seconds=round(seconds.total_seconds()))
        if torch.cuda.is_available():
            self.record['gpu_memory'] = torch.cuda.max_memory_allocated()  # bytes
        self._write(runner)

    def after_test(self, runner: Runner) -> None:
        self.after_train(runner)

    def _write(self, runner: Runner) -> None:
        if is_main_process():
            write_json(Path(runner.log_dir) / FILE, self.record)


def facts_of(runner: Runner, kind: str) -> dict:
    """What training and testing (``kind``) have in common."""
    model = unwrapped(runner.model)
    return dict(
        kind=kind,
        started=datetime.now().astimezone().isoformat(),
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        config=runner.cfg.filename,
        checkpoint=runner._load_from,
        resumed=bool(runner._resume),
        model=type(model).__name__,
        encoder=encoder_of(model),
        trainable_parameters=count(model, trainable=True),
        frozen_parameters=count(model, trainable=False),
        processes=get_world_size(),
        cpu=cpu_name(),
        python=sys.version.split()[0],
        git=git_state(SOURCE),
        **environment(),
    )


def training_facts(runner: Runner) -> dict:
    """Length, batch and rate of a run that is about to train."""
    loop, accumulation = runner.train_loop, accumulation_of(runner.optim_wrapper)
    batch = batch_size(runner.train_dataloader)
    return dict(
        first_iteration=runner.iter,
        iterations=runner.max_iters,
        epochs=loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else None,
        images=len(runner.train_dataloader.dataset),
        batch=batch,
        accumulation=accumulation,
        effective_batch=batch * get_world_size() * accumulation,
        learning_rate=peak_lr(runner.optim_wrapper.optimizer),
        precision=precision(runner.optim_wrapper),
        seed=runner.seed,
    )


def explain_lr(
    lr: float, effective: int, base_lr: float | None, base_batch_size: int | None
) -> tuple[str, str | None]:
    """How the learning rate came about, and a warning where it does not fit the batch."""
    if base_lr is None:
        return f'{lr:g} (as configured)', None
    fitting = base_lr * effective / base_batch_size
    rule = f'base {base_lr:g} x {effective}/{base_batch_size} = {fitting:g}'
    if isclose(lr, fitting, rel_tol=1e-3):
        return rule, None
    return f'{lr:g} (does not fit the batch)', (
        f'The learning rate is {lr:g}, but {rule} fits this batch: set '
        f'optim_wrapper.optimizer.lr={fitting:g}, or run with --auto-scale-lr.'
    )


def schedule_rows(runner: Runner, facts: dict) -> list[tuple[str, str]]:
    """Length of the run as rows; UserError where an epoch has no iteration."""
    images, accumulation, most = facts['images'], facts['accumulation'], facts['iterations']
    step_batch = facts['effective_batch'] // accumulation
    if facts['epochs'] is None:
        return [
            (
                'iterations',
                f'{most:,} (updates: {most // accumulation:,}; '
                f'passes over {images:,} images: {most * step_batch / images:.1f})',
            )
        ]
    length, done = len(runner.train_dataloader), runner.train_loop.epoch
    if length == 0:
        raise UserError(
            f'an epoch has no iteration: the dataset has {images} images, fewer than '
            f'the {step_batch} of one batch, and drop_last drops them'
        )
    parts = f'(updates: {-(-length // accumulation):,}; images: {images:,})'
    return [
        ('epochs', f'{facts["epochs"]:,}' + (f' (the first {done} are done)' if done else '')),
        ('iterations per epoch', f'{length:,} {parts}'),
    ]


def checkpoints(runner: Runner) -> str:
    """Where checkpoints go, and how often."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if hook is None:
        return 'none: the config has no CheckpointHook'
    unit = 'epochs' if hook.by_epoch else 'iterations'
    often = f'every {hook.interval} {unit}' if hook.interval > 0 else 'at the end'
    return f'{hook.out_dir}, {often}'


def environment() -> dict:
    """Date, hardware and versions."""
    cuda = torch.cuda.is_available()
    return dict(
        date=str(date.today()),
        hardware=torch.cuda.get_device_name() if cuda else f'{platform.machine()} CPU',
        threads=torch.get_num_threads(),
        versions={name: import_module(name).__version__ for name in PACKAGES},
    )


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns, one row a line."""
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def parameter_rows(model: nn.Module) -> list[tuple[str, str]]:
    """Trainable parameters of each part of the model, and the frozen ones of all, as rows."""
    model = unwrapped(model)
    names = dict(backbone='encoder (backbone)')
    if isinstance(model, BaseSelfSupervisor):
        names['neck'] = 'decoders (neck)'
    counts = {names.get(part, part): count(m, trainable=True) for part, m in model.named_children()}
    return [
        *((name, f'{number:,}') for name, number in counts.items() if number),
        ('trainable parameters', f'{count(model, trainable=True):,}'),
        ('frozen parameters', f'{count(model, trainable=False):,}'),
    ]


def count(module: nn.Module, trainable: bool) -> int:
    """Number of parameters that are trained, or that are not."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trainable)


def batch_size(loader: DataLoader) -> int:
    """Images of one process and one iteration, also where a batch sampler decides it."""
    return loader.batch_size or loader.batch_sampler.batch_size


def accumulation_of(optim_wrapper: BaseOptimWrapper) -> int:
    """Micro-batches of an update."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def peak_lr(optimizer: torch.optim.Optimizer) -> float:
    """The rate that the schedule multiplies, of the group with the largest (layer decay)."""
    return max(group.get('initial_lr', group['lr']) for group in optimizer.param_groups)


def precision(optim_wrapper: object) -> str:
    """The dtype in which the model computes."""
    if not isinstance(optim_wrapper, AmpOptimWrapper):
        return 'float32 (AMP off)'
    dtype = str(optim_wrapper.cast_dtype or torch.float16).removeprefix('torch.')
    return f'{dtype} (AMP)'


def device() -> str:
    """The device's type and, where torch knows it, its name."""
    kind = get_device()
    return f'{kind} ({torch.cuda.get_device_name()})' if kind == 'cuda' else kind


def encoder_of(model: torch.nn.Module) -> str | None:
    """A ViT's size in words."""
    backbone = getattr(model, 'backbone', None)
    depth, width = (getattr(backbone, name, None) for name in ('num_layers', 'embed_dims'))
    kind = type(backbone).__name__
    return f'{kind}, {depth} blocks of {width}' if depth and width else kind


def cpu_name() -> str:
    """The processor and the number of its cores."""
    name = platform.machine()
    if (info := Path('/proc/cpuinfo')).is_file():
        found = re.search(r'^model name\s*: (.+)$', info.read_text(), re.MULTILINE)
        name = found[1] if found else name
    return f'{name}, {os.cpu_count()} cores'


def git_state(folder: Path) -> dict | None:
    """Commit, branch and whether tracked files were changed; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ['git', '-C', str(folder), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return run.stdout.rstrip('\n')

    try:
        if Path(git('rev-parse', '--show-toplevel')).resolve() != folder.resolve():
            return None  # installed inside another project's checkout
        changed = git('status', '--porcelain', '--untracked-files=no').splitlines()
        return dict(
            commit=git('rev-parse', 'HEAD'),
            branch=git('rev-parse', '--abbrev-ref', 'HEAD'),
            changed=[line[3:] for line in changed],
        )
    except (OSError, subprocess.SubprocessError):
        return None
