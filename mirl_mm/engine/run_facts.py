"""What a run is: batch, rate, parameters, precision, hardware, versions; said, and written down."""

import os
import platform
import re
import shlex
import sys
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from importlib import import_module
from math import isclose
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models import BaseSelfSupervisor
from torch.utils.data import DataLoader

from mirl_mm.checkpoint.loading import names_initialised, names_taken
from mirl_mm.errors import UserError
from mirl_mm.files import write_json
from mirl_mm.models.segments import unwrapped

from .runner import FOR_TERMINAL
from .schedules import schedule_warning

FILE = 'run.json'


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Say what a run is before its first step, and write it down: ``run.json`` beside its log.

    A warning says where learning rate and batch do not fit: in the config's ``auto_scale_lr``,
    ``base_lr`` is the rate for ``base_batch_size``; without both there is no check. Another says
    where schedule and run end at different times. At the end come the seconds, and the most memory
    of tensors on a GPU. ``show=False`` writes the file alone.
    """

    priority = 'LOWEST'  # when the other hooks have settled, CheckpointHook its folder

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self.loaded: dict[str, str] = {}  # name of a tensor that does not start anew -> its file

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state, model = checkpoint.get('state_dict', checkpoint), unwrapped(runner.model)
        self.loaded = dict.fromkeys(names_taken(model, state), runner._load_from)

    def before_train(self, runner: Runner) -> None:
        loop, loader, wrapper = runner.train_loop, runner.train_dataloader, runner.optim_wrapper
        facts = self.record = facts_of(runner, 'train') | dict(
            first_iteration=runner.iter,
            iterations=runner.max_iters,
            epochs=loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else None,
            images=len(loader.dataset),
            batch=batch_size(loader),
            accumulation=accumulation_of(wrapper),
            effective_batch=batch_size(loader) * get_world_size() * accumulation_of(wrapper),
            learning_rate=peak_lr(wrapper.optimizer),
            precision=precision(wrapper),
            seed=runner.seed,
        )
        base = runner.cfg.get('auto_scale_lr') or {}
        lr, batch, kind = facts['learning_rate'], facts['effective_batch'], get_device()
        how, warning = explain_lr(lr, batch, base.get('base_lr'), base.get('base_batch_size', 0))
        saved = 'none: the config has no CheckpointHook'
        if saver := next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None):
            often = f'every {saver.interval} {"epochs" if saver.by_epoch else "iterations"}'
            saved = f'{saver.out_dir}, {often if saver.interval > 0 else "at the end"}'
        factors = 'batch {batch} x processes {processes} x accumulation {accumulation}'
        start = {} if runner._resume else names_initialised(unwrapped(runner.model)) | self.loaded
        facts['kept'] = sorted(set(start.values()))
        rows = [
            *parameter_rows(runner.model),
            *start_rows(runner.model, start),
            ('effective batch', f'{batch:,} = {factors.format(**facts)}'),
            ('learning rate', how),
            *schedule_rows(runner, facts),
            ('checkpoints', saved),
            ('precision', facts['precision']),
            ('device', f'{kind} ({facts["hardware"]})' if kind == 'cuda' else kind),
            ('threads', f'{facts["threads"]} ({facts["cpu"]})'),
        ]
        if self.show:
            runner.logger.info('Run summary\n' + table(rows), extra=FOR_TERMINAL)
        for line in filter(None, (warning, schedule_warning(runner))):
            if self.show:
                runner.logger.warning(line)
        self._write(runner)

    def before_test(self, runner: Runner) -> None:
        self.record = facts_of(runner, 'test')
        self._write(runner)

    def after_train(self, runner: Runner) -> None:
        self.after_test(runner)
        if self.show:
            took, folder = timedelta(seconds=self.record['seconds']), runner.work_dir
            done = f'finished after {took}; a page about it: mirl report {folder}'
            runner.logger.info(done, extra=FOR_TERMINAL)

    def after_test(self, runner: Runner) -> None:
        now = datetime.now().astimezone()
        took = now - datetime.fromisoformat(self.record['started'])
        self.record |= dict(finished=now.isoformat(), seconds=round(took.total_seconds()))
        if torch.cuda.is_available():
            self.record['gpu_memory'] = torch.cuda.max_memory_allocated()  # bytes
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        if is_main_process():
            write_json(Path(runner.log_dir) / FILE, self.record)


def facts_of(runner: Runner, kind: str) -> dict:
    """What training and testing (``kind``) have in common."""
    model = unwrapped(runner.model)
    backbone = getattr(model, 'backbone', None)
    depth, width = (getattr(backbone, name, None) for name in ('num_layers', 'embed_dims'))
    size = f', {depth} blocks of {width}' if depth and width else ''
    tool, *given = sys.argv
    called = tool if tool.startswith('mirl ') else shlex.join([Path(sys.executable).name, tool])
    return environment() | dict(
        kind=kind,
        started=datetime.now().astimezone().isoformat(),
        command=' '.join([called, *map(shlex.quote, given)]),
        config=runner.cfg.filename,
        checkpoint=runner._load_from,
        resumed=bool(runner._resume),
        model=type(model).__name__,
        encoder=f'{type(backbone).__name__}{size}',
        trainable_parameters=count(model, trainable=True),
        frozen_parameters=count(model, trainable=False),
        processes=get_world_size(),
        cpu=cpu_name(),
        python=platform.python_version(),
        git=git_state(Path(__file__).parents[2]),
    )


def explain_lr(lr: float, batch: int, base_lr: float | None, per: int) -> tuple[str, str | None]:
    """How the rate came about, and a warning where it does not fit; the base's batch is ``per``."""
    if not (base_lr and per):
        return f'{lr:g} (as configured)', None
    fitting = base_lr * batch / per
    rule = f'base {base_lr:g} x {batch}/{per} = {fitting:g}'
    if isclose(lr, fitting, rel_tol=1e-3):
        return rule, None
    how = f'set optim_wrapper.optimizer.lr={fitting:g}, or run with --auto-scale-lr.'
    warning = f'The learning rate is {lr:g}, but {rule} fits this batch: {how}'
    return f'{lr:g} (does not fit the batch)', warning


def schedule_rows(runner: Runner, facts: dict) -> list[tuple[str, str]]:
    """Length of the run as rows; UserError where an epoch has no iteration."""
    images, accumulation, most = facts['images'], facts['accumulation'], facts['iterations']
    batch = facts['effective_batch'] // accumulation  # of an iteration
    if facts['epochs'] is None:
        passes = f'passes over {images:,} images: {most * batch / images:.1f}'
        return [('iterations', f'{most:,} (updates: {most // accumulation:,}; {passes})')]
    length, done = len(runner.train_dataloader), runner.train_loop.epoch
    if length == 0:
        fewer = f'the dataset has {images} images, fewer than the {batch} of one batch'
        raise UserError(f'an epoch has no iteration: {fewer}, and drop_last drops them')
    left = max(images - length * batch, 0)
    out = f', without {left:,} that fill no batch' if left else ''
    parts = f'(updates: {-(-length // accumulation):,}; images: {images:,}{out})'
    epochs = f'{facts["epochs"]:,}' + (f' (the first {done} are done)' if done else '')
    return [('epochs', epochs), ('iterations per epoch', f'{length:,} {parts}')]


def environment() -> dict:
    """Date, hardware and versions."""
    packages = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mirl_mm')
    cuda = torch.cuda.is_available()
    return dict(
        date=str(date.today()),
        hardware=torch.cuda.get_device_name() if cuda else f'{platform.machine()} CPU',
        threads=torch.get_num_threads(),
        versions={name: import_module(name).__version__ for name in packages},
    )


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns, one row a line."""
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def parameter_rows(model: torch.nn.Module) -> list[tuple[str, str]]:
    """Trainable parameters of each part of the model, and the frozen ones of all, as rows."""
    model = unwrapped(model)
    names = part_names(model)
    counts = {names[part]: count(m, trainable=True) for part, m in model.named_children()}
    return [
        *((name, f'{number:,}') for name, number in counts.items() if number),
        ('trainable parameters', f'{count(model, trainable=True):,}'),
        ('frozen parameters', f'{count(model, trainable=False):,}'),
    ]


def start_rows(model: torch.nn.Module, kept: dict[str, str]) -> list[tuple[str, str]]:
    """Parameters of each part that are kept, by file, and new ones, as rows; none if all is new."""
    model, sizes = unwrapped(model), defaultdict(Counter)
    names = part_names(model)
    for name, param in model.named_parameters():
        part = name.partition('.')[0]
        sizes[kept.get(name, '')][names.get(part, part)] += param.numel()
    rows = []
    for path in sorted(sizes, key=bool, reverse=True) if kept else ():
        of = ', '.join(f'{part} {number:,}' for part, number in sizes[path].items())
        rows.append(('kept', f'{of} from {path}') if path else ('new', of))
    return rows


def part_names(model: torch.nn.Module) -> dict[str, str]:
    """The parts of a model as the summary calls them."""
    told = dict(backbone='encoder (backbone)')
    if isinstance(model, BaseSelfSupervisor):
        told['neck'] = 'decoders (neck)'
    return {name: told.get(name, name) for name, _ in model.named_children()}


def count(module: torch.nn.Module, trainable: bool) -> int:
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


def compute_dtype(optim_wrapper: object) -> torch.dtype:
    """The type in which the model's matrix products are computed."""
    amp = isinstance(optim_wrapper, AmpOptimWrapper)
    return (optim_wrapper.cast_dtype or torch.float16) if amp else torch.float32


def precision(optim_wrapper: object) -> str:
    """That type in words."""
    amp = '(AMP)' if isinstance(optim_wrapper, AmpOptimWrapper) else '(AMP off)'
    return f'{str(compute_dtype(optim_wrapper)).removeprefix("torch.")} {amp}'


def cpu_name() -> str:
    """The processor and the number of its cores."""
    info = Path('/proc/cpuinfo')
    found = re.search(r'^model name\s*: (.+)$', info.read_text() if info.is_file() else '', re.M)
    return f'{found[1] if found else platform.machine()}, {os.cpu_count()} cores'


def git_state(folder: Path) -> dict | None:
    """Commit, branch and whether tracked files were changed; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ['git', '-C', str(folder), *arguments]
        return check_output(command, stderr=DEVNULL, text=True, timeout=20).rstrip('\n')

    try:
        if Path(git('rev-parse', '--show-toplevel')).resolve() != folder.resolve():
            return None  # installed inside another project's checkout
        return dict(
            commit=git('rev-parse', 'HEAD'),
            branch=git('rev-parse', '--abbrev-ref', 'HEAD'),
            changed=[line[3:] for line in git('status', '--porcelain', '-uno').splitlines()],
        )
    except (OSError, SubprocessError):
        return None
