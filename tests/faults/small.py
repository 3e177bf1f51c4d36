"""The small run of benchmarks/faults in this process."""

import itertools
from pathlib import Path

import torch
from mmengine.config import Config

from benchmarks.faults.jobs import TRAINED, different
from benchmarks.faults.run import small_config
from mirl_mm.engine.launch import build_runner, training_config

_number = itertools.count()


def run(work_dir: Path, cfg: Config, resume: str | None = None, start: bool = True):
    """A runner of ``cfg``, trained unless told otherwise."""
    # mmengine tells the loggers and message hubs of one process apart by name and second
    cfg.experiment_name = f'{work_dir.name}-{next(_number)}'
    file = work_dir.with_suffix('.py')
    cfg.dump(file)
    runner = build_runner(*training_config(str(file), str(work_dir), resume))
    if start:
        runner.train()
    return runner


def load(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)


def differs(one: Path, two: Path) -> str:
    """Where the trained states of two checkpoints differ."""
    one, two = load(one), load(two)
    return next((f for key in TRAINED if (f := different(one[key], two[key], key))), '')


def log_of(runner) -> str:
    return Path(runner.logger.log_file).read_text()


__all__ = ['differs', 'load', 'log_of', 'run', 'small_config']
