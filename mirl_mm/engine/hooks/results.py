"""Evaluation results on the terminal, which shows little else."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ..runner import FOR_TERMINAL


@HOOKS.register_module()
class ResultsHook(Hook):
    """Log the metrics of every validation and test in one line, for the terminal too."""

    priority = 'LOWEST'

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if isinstance(loop := runner._train_loop, BaseLoop):  # a dict before it is built
            by_epoch = isinstance(loop, EpochBasedTrainLoop)
            where = f'epoch {loop.epoch}' if by_epoch else f'iteration {loop.iter}'
        else:
            where = 'validation'
        self._log(runner, where, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._log(runner, 'test', metrics)

    def _log(self, runner: Runner, where: str, metrics: dict[str, float] | None) -> None:
        values = [
            f'{name}: {value:.4g}' for name, value in (metrics or {}).items() if is_number(value)
        ]
        if values:
            runner.logger.info('  '.join([where, *values]), extra=FOR_TERMINAL)


def is_number(value: object) -> bool:
    """A number of any kind, or an array or tensor of one."""
    return isinstance(value, int | float | np.number) or getattr(value, 'shape', None) == ()
