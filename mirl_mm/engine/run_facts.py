"""What a run is, in numbers and names: batch, rate, parameters, precision, hardware, versions."""

import os
import platform
import re
import subprocess
from datetime import date
from importlib import import_module
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper
from mmpretrain.models import BaseSelfSupervisor
from torch import nn
from torch.utils.data import DataLoader

from mirl_mm.models.segments import unwrapped

PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mirl_mm')


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
    counts = {
        names.get(part, part): count(module, trainable=True)
        for part, module in model.named_children()
    }
    rows = [(name, f'{number:,}') for name, number in counts.items() if number]
    total = count(model, trainable=True)
    return [
        *rows,
        ('trainable parameters', f'{total:,}'),
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
