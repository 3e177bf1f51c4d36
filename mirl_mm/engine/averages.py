"""Averaged weights: all at once, without a look at the device; and the raw ones validated beside.

Under an accumulation of k, EMAHook (which counts iterations) needs ``interval=k`` and k times the
gamma of ForeachEMA, so that it averages updates.
"""

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import MomentumAnnealingEMA
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

from mirl_mm.errors import UserError

from .machine import accumulative_counts


@MODELS.register_module()
class ForeachEMA(MomentumAnnealingEMA):
    """MMEngine's MomentumAnnealingEMA with the same values, args and checkpoints.

    MMEngine averages weight by weight and reads the buffer ``steps`` for each. Here the host counts
    along.
    """

    count = 0  # what `steps` holds

    def load_state_dict(self, *args, **kwargs) -> object:
        result = super().load_state_dict(*args, **kwargs)
        self.count = self.steps.item()
        return result

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [(own, source[name].to(own.device)) for name, own in self.avg_parameters.items()]
        if self.count == 0:
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        elif self.count % self.interval == 0:
            pairs = [pair for pair in pairs if pair[0].is_floating_point()]
            momentum = max(self.momentum, self.gamma / (self.gamma + self.count))
            torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), momentum)
        if not self.update_buffers:
            for own, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
                own.copy_(buffer)
        self.steps += 1
        self.count += 1


@HOOKS.register_module()
class RawWeightsHook(Hook):
    """In training, validate the raw weights after EMAHook has validated the averaged ones.

    Metrics keep their names for the averaged weights, which are also what a checkpoint's
    ``state_dict`` has and what ``save_best`` goes by (``accuracy/top1``). Those of the raw weights
    are added under ``raw/`` (``raw/accuracy/top1``). Warns of an EMAHook that does not average
    updates; without one, a UserError.
    """

    priority = 55  # behind EMAHook (50), which puts the raw weights back, before LoggerHook (60)
    training = False  # a loaded checkpoint has one set of weights

    def before_train(self, runner: Runner) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        if hook is None:
            raise UserError('RawWeightsHook has no effect without an EMAHook in custom_hooks')
        self.training = True
        interval, updates = hook.ema_model.interval, accumulative_counts(runner.cfg)
        if interval != updates:
            runner.logger.warning(
                f'EMAHook averages every {interval} iterations, but there is an update every '
                f'{updates}: give it interval={updates}, and gamma={updates} times its value for 1'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not self.training:
            return
        loop = runner.val_loop
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        for name, value in loop.evaluator.evaluate(len(loop.dataloader.dataset)).items():
            runner.message_hub.update_scalar(f'val/raw/{name}', value)
            metrics[f'raw/{name}'] = value

    def after_train(self, runner: Runner) -> None:
        self.training = False
