"""A short table before the first step: what is trained, with which batch and rate, how long."""

from math import isclose

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mirl_mm.errors import UserError

from ..run_facts import (
    accumulation_of,
    batch_size,
    device,
    parameter_rows,
    peak_lr,
    precision,
    table,
)
from ..runner import FOR_TERMINAL


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Log the run's summary once, and warn where learning rate and batch do not fit.

    MMEngine's logger keeps it to the first process.

    Args:
        base_lr: Learning rate for a batch of ``base_batch_size``. None: no check.
        base_batch_size: The batch that ``base_lr`` is for.
    """

    priority = 'LOWEST'  # after CheckpointHook, which settles its folder in before_train

    def __init__(self, base_lr: float | None = None, base_batch_size: int = 256) -> None:
        if base_lr is not None and base_lr <= 0:
            raise UserError(f'base_lr must be positive or None, got {base_lr}')
        if base_batch_size <= 0:
            raise UserError(f'base_batch_size must be positive, got {base_batch_size}')
        self.base_lr = base_lr
        self.base_batch_size = base_batch_size

    def before_train(self, runner: Runner) -> None:
        """Log the table; ValueError where an epoch has no iteration."""
        batch, processes = batch_size(runner.train_dataloader), get_world_size()
        accumulation = accumulation_of(runner.optim_wrapper)
        effective = batch * processes * accumulation
        lr = peak_lr(runner.optim_wrapper.optimizer)
        how, warning = explain_lr(lr, effective, self.base_lr, self.base_batch_size)
        rows = [
            *parameter_rows(runner.model),
            (
                'effective batch',
                f'{effective:,} = batch {batch} x processes {processes} x '
                f'accumulation {accumulation}',
            ),
            ('learning rate', how),
            *schedule_rows(runner, effective // accumulation, accumulation),
            ('checkpoints', checkpoints(runner)),
            ('precision', precision(runner.optim_wrapper)),
            ('device', device()),
        ]
        runner.logger.info('Run summary\n' + table(rows), extra=FOR_TERMINAL)
        if warning:
            runner.logger.warning(warning)


def explain_lr(
    lr: float, effective: int, base_lr: float | None, base_batch_size: int
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


def schedule_rows(runner: Runner, step_batch: int, accumulation: int) -> list[tuple[str, str]]:
    """Length of the run as rows.

    Args:
        runner: At the start of its training loop.
        step_batch: Images of all processes in one iteration.
        accumulation: Iterations for one update.
    """
    loop, images = runner.train_loop, len(runner.train_dataloader.dataset)
    if not isinstance(loop, EpochBasedTrainLoop):
        passes = loop.max_iters * step_batch / images
        return [
            (
                'iterations',
                f'{loop.max_iters:,} (updates: {loop.max_iters // accumulation:,}; '
                f'passes over {images:,} images: {passes:.1f})',
            )
        ]
    length = len(runner.train_dataloader)
    if length == 0:
        raise UserError(
            f'an epoch has no iteration: the dataset has {images} images, fewer than '
            f'the {step_batch} of one batch, and drop_last drops them'
        )
    done = f' (the first {loop.epoch} are done)' if loop.epoch else ''
    return [
        ('epochs', f'{loop.max_epochs:,}{done}'),
        (
            'iterations per epoch',
            f'{length:,} (updates: {-(-length // accumulation):,}; images: {images:,})',
        ),
    ]


def checkpoints(runner: Runner) -> str:
    """Where checkpoints go, and how often."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if hook is None:
        return 'none: the config has no CheckpointHook'
    unit = 'epochs' if hook.by_epoch else 'iterations'
    often = f'every {hook.interval} {unit}' if hook.interval > 0 else 'at the end'
    return f'{hook.out_dir}, {often}'
