"""What MMEngine's EMAHook leaves out: the raw weights' accuracy, and a look at its interval."""

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.errors import UserError

from ..machine import accumulative_counts


@HOOKS.register_module()
class RawAndEMAHook(Hook):
    """In training, validate the raw weights after EMAHook has validated the averaged ones.

    Metrics keep their names for the averaged weights, which are also what a checkpoint's
    ``state_dict`` has and what ``save_best`` goes by (``accuracy/top1``). Those of the raw weights
    are added under ``raw/`` (``raw/accuracy/top1``).

    EMAHook counts iterations: with an accumulation of k it needs ``interval=k`` (and k times the
    gamma of ForeachEMA), so that it averages updates. A warning says if it does not.

    Raises:
        ValueError: at the start, where there is no EMAHook.
    """

    priority = 55  # behind EMAHook (50), which puts the raw weights back, before LoggerHook (60)
    training = False

    def before_train(self, runner: Runner) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        if hook is None:
            raise UserError('RawAndEMAHook has no effect without an EMAHook in custom_hooks')
        self.training = True
        interval, updates = hook.ema_model.interval, accumulative_counts(runner.cfg)
        if interval != updates:
            runner.logger.warning(
                f'EMAHook averages every {interval} iterations, but there is an update every '
                f'{updates}: give it interval={updates}, and gamma={updates} times its value for 1'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not self.training:  # a loaded checkpoint: both weights are the same
            return
        loop = runner.val_loop
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        raw = loop.evaluator.evaluate(len(loop.dataloader.dataset))
        for name, value in raw.items():
            runner.message_hub.update_scalar(f'val/raw/{name}', value)
            metrics[f'raw/{name}'] = value

    def after_train(self, runner: Runner) -> None:
        self.training = False
