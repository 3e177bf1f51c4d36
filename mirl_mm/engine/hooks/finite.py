"""A guard before every update: bad gradients never reach the weights."""

import math
from collections.abc import Callable
from functools import partial

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..blame import Blame, find_blame
from ..segments import unwrapped

POLICIES = ('stop', 'skip')
_SCALER_EVERY = 50  # iterations between two looks at a loss scale


class NonFiniteError(RuntimeError):
    """Loss or gradients are not finite; the message says where, and what to go back to."""


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stop, or leave out the update, where a loss or a gradient is not finite.

    Before every update the norm of all gradients is computed at once and read, which waits for the
    device once; the loss is read where MMEngine has read it already. On alarm the forward pass is
    repeated with the same random numbers to find the module where it began.

    Under a loss scaler (float16) an update that the scaler leaves out is no alarm; a scale that has
    fallen below ``min_loss_scale`` is.

    Args:
        policy: 'stop' raises a NonFiniteError; 'skip' leaves out the update and goes on.
        interval: updates between two looks at the gradients; 0 looks at losses alone.
        max_skips: under 'skip', so many in a row are too many.
        min_loss_scale: of a loss scaler.

    Raises:
        ValueError: settings that are not accepted, or have no effect.
    """

    priority = 'ABOVE_NORMAL'  # behind RuntimeInfoHook, which reads the loss; before EMAHook

    def __init__(
        self,
        policy: str = 'stop',
        interval: int = 1,
        max_skips: int = 10,
        min_loss_scale: float = 2.0**-10,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f'policy must be one of {", ".join(POLICIES)}, got {policy!r}')
        if interval < 0 or max_skips < 1:
            raise ValueError(
                f'interval must be 0 or more, max_skips 1 or more, got {interval} and {max_skips}'
            )
        if policy == 'skip' and interval != 1:
            raise ValueError(
                f'policy skip has to look before every update: interval must be 1, got {interval}'
            )
        self.policy, self.interval = policy, interval
        self.max_skips, self.min_loss_scale = max_skips, min_loss_scale
        self.skips, self.updates, self.batch = 0, 0, None
        self.skipped_iter, self.handles = -1, []

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers = [wrapper] if isinstance(wrapper, OptimWrapper) else list(wrapper.values())
        scalers = [getattr(each, 'loss_scaler', None) for each in wrappers]
        self.scalers = [scaler for scaler in scalers if scaler is not None and scaler.is_enabled()]
        if self.interval:
            look = partial(self._before_update, runner)
            self.handles = [each.optimizer.register_step_pre_hook(look) for each in wrappers]

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        self.batch = data_batch

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the loss, or under a loss scaler at its scale."""
        if self.scalers:
            scale = math.inf
            if (runner.iter + 1) % _SCALER_EVERY == 0:
                scale = min(scaler.get_scale() for scaler in self.scalers)
            if scale < self.min_loss_scale:
                self._stop(runner, f'the loss scale has fallen to {scale:g}: {self._blame(runner)}')
        elif 'loss' in (outputs or {}) and self.skipped_iter != runner.iter:
            loss = runner.message_hub.get_scalar('train/loss').current()
            # Under 'skip' the gradients decide, which are looked at before every update.
            if not math.isfinite(loss) and self.policy == 'stop':
                self._stop(runner, f'the loss is {loss}: {self._blame(runner)}')
        self.batch = None

    def after_train(self, runner: Runner) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _before_update(self, runner: Runner, optimizer: Optimizer, *_: object) -> None:
        self.updates += 1
        if self.updates % self.interval or getattr(optimizer, 'grad_scale', None) is not None:
            return  # (a fused optimizer leaves out the update itself, as its scaler tells it)
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients or torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self.skips = 0
            return
        shared = isinstance(runner.model, DistributedDataParallel)  # the gradients, and the alarm
        blame = self._blame(runner, shared)
        if blame.place == 'nowhere' and not blame.bad_gradients:
            return  # all of them are finite, and the norm alone is too large to be told
        self.skips, self.skipped_iter = self.skips + 1, runner.iter
        if self.policy == 'stop':
            self._stop(runner, f'a gradient is not finite: {blame}')
        if self.skips >= self.max_skips:
            self._stop(runner, f'{self.skips} updates in a row had bad gradients; {blame}')
        runner.logger.error(
            f'iteration {runner.iter + 1}: update left out, since a gradient is not finite: {blame}'
        )
        for parameter in parameters:
            parameter.grad = None

    def _stop(self, runner: Runner, what: str) -> None:
        back = runner.message_hub.get_info('last_ckpt')
        raise NonFiniteError(
            f'iteration {runner.iter + 1}: {what}. '
            + (f'The checkpoint to go back to: {back}' if back else 'There is no checkpoint yet')
        )

    def _blame(self, runner: Runner, shared: bool = False) -> Blame:
        """What this process finds, or with shared gradients the process where it began."""
        blame = find_blame(unwrapped(runner.model), self._forward(runner))
        if shared and get_world_size() > 1:
            began = ('weight', 'forward')
            found = all_gather_object(blame)
            blame = next((each for each in found if each.place in began), blame)
        return blame

    def _forward(self, runner: Runner) -> Callable[[], dict] | None:
        """Repeats the iteration's forward pass with its own random numbers."""
        seed_step = getattr(runner.train_loop, 'seed_step', None)
        if seed_step is None or self.batch is None:
            return None
        model, wrapper, batch = unwrapped(runner.model), runner.optim_wrapper, self.batch

        def forward() -> dict:
            seed_step(runner.iter)
            with wrapper.optim_context(model):
                return model._run_forward(model.data_preprocessor(batch, True), mode='loss')

        return forward if isinstance(wrapper, OptimWrapper) else None
