"""What a run was, written down when it starts: ``run.json`` beside its log, read by the report."""

import shlex
import sys
from datetime import datetime
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

import mirl_mm
from mirl_mm.files import write_json
from mirl_mm.models.segments import unwrapped

from ..run_facts import (
    accumulation_of,
    batch_size,
    count,
    cpu_name,
    encoder_of,
    environment,
    git_state,
    peak_lr,
    precision,
)

FILE = 'run.json'
SOURCE = Path(mirl_mm.__file__).parents[1]


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Record command, config, versions, git state of this package, hardware, batch and rate.

    At the end of training come the seconds it took and the most memory that tensors held on a GPU.
    """

    priority = 'LOWEST'  # when the other hooks have settled

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        accumulation = accumulation_of(runner.optim_wrapper)
        batch = batch_size(runner.train_dataloader)
        self.record = dict(
            start_of(runner, 'train'),
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
        self._write(runner)

    def before_test(self, runner: Runner) -> None:
        self.record = start_of(runner, 'test')
        self._write(runner)

    def after_train(self, runner: Runner) -> None:
        self._finish(runner)

    def after_test(self, runner: Runner) -> None:
        self._finish(runner)

    def _finish(self, runner: Runner) -> None:
        now = datetime.now().astimezone()
        seconds = now - datetime.fromisoformat(self.record['started'])
        self.record |= dict(finished=now.isoformat(), seconds=round(seconds.total_seconds()))
        if torch.cuda.is_available():
            self.record['gpu_memory'] = torch.cuda.max_memory_allocated()  # bytes
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        if is_main_process():
            write_json(Path(runner.log_dir) / FILE, self.record)


def start_of(runner: Runner, kind: str) -> dict:
    """What training and testing have in common."""
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
