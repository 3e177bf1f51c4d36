"""Is the run healthy? Gradients and updates by segment, loss scale, throughput and utilisation."""

from contextlib import ExitStack

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, IterTimerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.measure.cost import peak_rate
from mirl_mm.measure.rehearsal import ONE_SIZE, flops_per_image
from mirl_mm.models.segments import is_sharded, local, parameter_segments, unwrapped

from ..run_facts import accumulation_of, batch_size, compute_dtype
from ..seeding import kept_random_state
from .late_losses import until_log


@HOOKS.register_module()
class HealthHook(Hook):
    """Every so often, put what docs/watching.md lists into MMEngine's scalars.

    Gradients are those of the last update before LoggerHook's line (all micro-batches), unscaled,
    after clipping; a step that the scaler skips is not measured. ``images_per_s`` needs the
    ``time`` that IterTimerHook logs, so it is not there at the very first iteration. Other
    iterations cost nothing; a measurement keeps a copy of the weights for one optimizer step, when
    no activations are held. ``interval`` is in iterations; None takes LoggerHook's.
    """

    priority = 'NORMAL'  # LoggerHook is BELOW_NORMAL

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise UserError(f'interval must be at least 1 or None, got {interval}')
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        optim_wrapper = runner.optim_wrapper
        if not hasattr(optim_wrapper, 'optimizer'):
            kind, off = type(optim_wrapper).__name__, 'default_hooks=dict(health=None)'
            raise UserError(f'HealthHook needs one optimizer, got a {kind}: switch it off by {off}')
        self.accumulation = accumulation_of(optim_wrapper)
        self.scaler = getattr(optim_wrapper, 'loss_scaler', None)
        self.due, self.before = False, []
        self.measured: list[Tensor] = []  # [part]: squares of gradients, weights; overflow; updates
        labels = parameter_segments(runner.model)
        trained = {n: p for n, p in runner.model.named_parameters() if p.requires_grad}
        self.parts = list(dict.fromkeys(labels[name] for name in trained))
        self.params = list(trained.values())
        part_of = [self.parts.index(labels[name]) for name in trained]
        self.part_of = torch.tensor(part_of, device=self.params[0].device)  # [parameter]
        self.sharded, self.hooks = is_sharded(runner.model), ExitStack()
        if is_main_process() or self.sharded:  # elsewhere all processes hold the same
            optimizer = optim_wrapper.optimizer
            self.hooks.enter_context(optimizer.register_step_pre_hook(self._before_update))
            self.hooks.enter_context(optimizer.register_step_post_hook(self._after_update))
        self.images = batch_size(runner.train_dataloader) * get_world_size()
        self.looked = runner.iter
        self.flops = None  # counted at the first log line: it takes a second
        self.counted = is_main_process() and type(unwrapped(runner.model)).__name__ in ONE_SIZE
        if is_main_process() and not self.counted:
            runner.logger.info(f'no model FLOP utilisation: it is for {", ".join(ONE_SIZE)}')

    def before_train_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        # The one update among the last `accumulation` iterations up to the log line.
        self.due = until_log(runner, batch_idx, self.interval) < self.accumulation

    def after_train_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        if until_log(runner, batch_idx, self.interval):
            return
        scalars = self._norms()
        scalars['max_lr'] = max(g['lr'] for g in runner.optim_wrapper.optimizer.param_groups)
        if self.scaler is not None and self.scaler.is_enabled():
            scalars['amp_scale'] = self.scaler.get_scale()
        for name, value in (scalars | self._rates(runner)).items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def after_val(self, runner: Runner) -> None:
        """Metrics, and saving the best, are no part of the next iteration's time either."""
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook):
                hook.before_train_epoch(runner)

    def after_train(self, runner: Runner) -> None:
        self.hooks.close()

    @torch.compiler.disable
    @torch.no_grad()
    def _before_update(self, optimizer: torch.optim.Optimizer, *_) -> None:
        found = [i for i, p in enumerate(self.params) if p.grad is not None] if self.due else []
        if not found:
            return
        self.updated = [self.params[i] for i in found]
        everything = len(found) == len(self.params)  # else a list is copied to the device
        self.parts_updated = self.part_of if everything else self.part_of[found]
        gradients = self._squares([local(p.grad) for p in self.updated])
        # A fused optimizer unscales in its own step and gets the scale for it.
        scale, overflow = (getattr(optimizer, n, None) for n in ('grad_scale', 'found_inf'))
        if scale is not None:
            gradients /= scale.to(gradients.device) ** 2
        overflow = gradients.new_zeros(()) if overflow is None else overflow.to(gradients)
        self.before = [local(p).clone() for p in self.updated]
        self.measured = [gradients, self._squares(self.before), overflow.expand_as(gradients)]

    @torch.compiler.disable
    @torch.no_grad()
    def _after_update(self, *_) -> None:
        if self.before:
            torch._foreach_sub_(self.before, [local(p) for p in self.updated])
            self.measured.append(self._squares(self.before))
            self.before = []

    def _squares(self, tensors: list[Tensor]) -> Tensor:
        """The sum of squares of every part, in float32, over all shards."""
        norms = torch.stack(torch._foreach_norm(tensors)).float()
        squares = norms.new_zeros(len(self.parts)).index_add_(0, self.parts_updated, norms**2)
        if self.sharded and get_world_size() > 1:
            dist.all_reduce(squares)
        return squares

    def _norms(self) -> dict[str, float]:
        """What the last measured update says; nothing where the scaler skipped it."""
        measured, self.measured = self.measured, []
        if not measured:
            return {}
        gradients, weights, overflows, updates = torch.stack(measured).tolist()
        if overflows[0]:
            return {}
        scalars = {f'grad/{part}': g**0.5 for part, g in zip(self.parts, gradients, strict=True)}
        scalars['grad/all'] = sum(gradients) ** 0.5
        changes = zip(self.parts, weights, updates, strict=True)
        return scalars | {f'update/{part}': (u / w) ** 0.5 for part, w, u in changes if w}

    def _rates(self, runner: Runner) -> dict[str, float]:
        since, self.looked = runner.iter - self.looked, runner.iter  # this one's is not over yet
        if not since or 'train/time' not in runner.message_hub.log_scalars:
            return {}
        rate = self.images / float(runner.message_hub.get_scalar('train/time').mean(since))
        if self.counted and self.flops is None:
            with kept_random_state():
                batch = batch_size(runner.train_dataloader)
                self.flops = flops_per_image(runner.cfg.model, batch).training
            peak, source = peak_rate(get_device(), compute_dtype(runner.optim_wrapper))
            self.peak = peak * get_world_size()
            work = f'{self.flops / 1e9:.2f} GFLOP an image; peak rate of a device {source}'
            runner.logger.info(f'model FLOP utilisation: {work}')
            self.looked += 1  # counting is no work of the model
        mfu = dict(mfu=100 * rate * self.flops / self.peak) if self.counted else {}
        return dict(images_per_s=rate) | mfu
