"""A guard of every update, which nobody waits for, and where a value stopped being finite."""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from mmengine.dist import all_gather_object, get_world_size
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mirl_mm.errors import NonFiniteError, UserError
from mirl_mm.models.segments import is_sharded, local, parameter_segments, unwrapped

from ..optim import own_part
from ..run_facts import accumulation_of
from ..seeding import kept_buffers
from .late_losses import EVERY, Late

PLACES = ('weight', 'forward', 'backward', 'nowhere', 'unknown')  # the most telling first


@dataclass
class Blame:
    """What was found; names as in ``named_parameters`` and ``named_modules``."""

    place: str  # one of PLACES
    where: str  # in words
    parameter: str = ''  # the first bad one, or the first of the module
    module: str = ''  # forward: the first whose output is not finite
    losses: dict[str, float] = field(default_factory=dict)  # of the repeated forward pass
    bad_gradients: int = 0
    gradients: int = 0
    iteration: int = 0  # that was repeated; its loss was this
    loss: float = 0.0

    def __str__(self) -> str:
        bad = f'{self.bad_gradients} of {self.gradients} gradients are bad'
        losses = ', '.join(f'{name} {value:g}' for name, value in self.losses.items())
        return '; '.join(filter(None, (self.where, bad if self.bad_gradients else '', losses)))


@HOOKS.register_module()
class FiniteHook(Late):
    """Stop, or leave out the update, where a loss or a gradient is not finite.

    The verdict on an update's gradients, and on the losses, stays on the device: a fused optimizer
    leaves out the update by itself, and under 'stop' all that follow. So the weights are still
    those of the bad step when the host looks (see late_losses.py) and repeats it, with the same
    images and random numbers, to find the module where it began. An optimizer that is not fused
    makes the host wait before every update. Under a loss scaler (float16) an update left out is no
    alarm; a scale that has fallen below ``min_loss_scale`` is.

    ``policy`` 'stop' raises a NonFiniteError; 'skip' goes on, but not after ``max_skips`` in a row.
    ``interval``: updates between looks at gradients (under 'skip' 1); 0: losses alone.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook, and HealthHook, which asks for the verdict

    def __init__(
        self, policy: str = 'stop', interval: int = 1, max_skips: int = 10, min_loss_scale=2.0**-10
    ) -> None:
        if policy not in ('stop', 'skip'):
            raise UserError(f'policy must be one of stop, skip, got {policy!r}')
        if interval < 0 or max_skips < 1:
            given = f'got {interval} and {max_skips}'
            raise UserError(f'interval must be 0 or more, max_skips 1 or more, {given}')
        if policy == 'skip' and interval != 1:
            raise UserError(f'policy skip looks at each update: interval must be 1, got {interval}')
        self.policy, self.interval = policy, interval
        self.max_skips, self.min_loss_scale = max_skips, min_loss_scale
        # What iterations, from 0, have left: number, whether it updated, bad gradients [], loss [].
        self.seen: list[tuple[int, bool, Tensor, Tensor]] = []
        self.updates, self.skipped, self.hooks = 0, 0, ExitStack()
        self.updated = self.known = False  # this iteration; known: to be bad

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        self.accumulation = accumulation_of(wrapper)
        if hasattr(runner.train_loop, 'repeating'):
            runner.train_loop.dataloader.remember(EVERY + self.accumulation)
        wrappers = [wrapper] if isinstance(wrapper, OptimWrapper) else list(wrapper.values())
        scalers = [getattr(each, 'loss_scaler', None) for each in wrappers]
        self.scalers = [scaler for scaler in scalers if scaler is not None and scaler.is_enabled()]
        if self.scalers:
            return
        # All []: bad gradients (under 'stop' so far), bad losses so far, updates left out in a row.
        device = next(runner.model.parameters()).device
        self.found, self.lost, self.in_a_row = torch.zeros(3, device=device).unbind()
        self.one = torch.ones((), device=device)
        self.sharded = is_sharded(runner.model) and get_world_size() > 1
        for optimizer in (each.optimizer for each in wrappers):
            if not (fused := takes_verdict(optimizer)):
                waits = 'before every update FiniteHook waits for the device'
                runner.logger.info(f'{type(optimizer).__name__} is not fused: {waits}')
            look = partial(self._before_update, fused)
            self.hooks.enter_context(optimizer.register_step_pre_hook(look))

    def keep(self, runner: Runner, outputs: dict) -> None:
        """The verdict and the loss, or under a loss scaler a look at its scale."""
        self.back = runner.message_hub.get_info('last_ckpt')  # (written by the end of the run)
        if self.scalers and (runner.iter + 1) % EVERY == 0:
            scale = min(scaler.get_scale() for scaler in self.scalers)
            if scale < self.min_loss_scale:
                blame = self._blame(runner, runner.iter)
                self._stop(runner.iter, f'the loss scale has fallen to {scale:g}: {blame}')
        if self.scalers:
            return
        loss = torch.as_tensor(outputs.get('loss', 0.0), device=self.found.device).detach().clone()
        self.seen.append((runner.iter, self.updated, self.found, loss))
        if self.policy == 'stop':
            self.found = self.found.clone()
            self._mark([loss], self.lost)
        else:  # the gradients decide, which are looked at before every update
            self.found = (self.in_a_row >= self.max_skips).float()
        if self.known:
            self.settle(runner)
        self.updated = self.known = False

    def after_train(self, runner: Runner) -> None:
        super().after_train(runner)
        self.hooks.close()

    @torch.no_grad()
    def _before_update(self, fused: bool, optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        self.updated = True
        self.updates += 1
        if self.interval and self.updates % self.interval == 0:
            self._mark([local(p.grad) for p in parameters if p.grad is not None], self.found)
            if self.sharded:  # elsewhere all processes have the same gradients
                dist.all_reduce(self.found, dist.ReduceOp.MAX)
        if self.policy == 'skip':
            self.in_a_row = (self.in_a_row + self.found) * self.found
        verdict = torch.maximum(self.found, self.lost)
        if fused:
            optimizer.found_inf = own_part(optimizer).found_inf = verdict
        elif verdict.item():
            self.known = True
            for parameter in parameters:
                parameter.grad = None

    def _mark(self, tensors: list[Tensor], flag: Tensor) -> None:
        """Set a flag where a value is not finite; GradScaler's kernel, which multiplies, by 1."""
        for dtype in {tensor.dtype for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            torch._amp_foreach_non_finite_check_and_unscale_(same, flag, self.one)

    def settle(self, runner: Runner) -> None:
        """Read what the iterations since the last look have left, and act."""
        if not self.seen:
            return
        iterations, updated, found, losses = zip(*self.seen, strict=True)
        self.seen = []
        losses = torch.stack([loss.float() for loss in losses])
        bad, losses = torch.stack([torch.stack(found), losses]).tolist()
        losses = dict(zip(iterations, losses, strict=True))
        updates = {i: b > 0 for i, b, done in zip(iterations, bad, updated, strict=True) if done}
        if self.policy == 'skip':
            return self._count(runner, updates, losses)
        lost = next((i for i, loss in losses.items() if not math.isfinite(loss)), None)
        update = next((i for i, one in updates.items() if one), None)
        if lost is not None and (update is None or lost < update - update % self.accumulation):
            self._stop(lost, f'the loss is {losses[lost]}: {self._blame(runner, lost)}')
        if update is not None:
            blame, where = self._origin(runner, update, losses)
            if blame.iteration < update and not math.isfinite(blame.loss):
                self._stop(blame.iteration, f'the loss is {blame.loss}: {blame}')
            self._stop(update, f'a gradient is not finite: {where}')

    def _count(self, runner: Runner, updates: dict[int, bool], losses: dict[int, float]) -> None:
        """Say which updates were left out; stop where there were too many in a row."""
        for update, bad in updates.items():
            self.skipped = self.skipped + 1 if bad else 0
            if not bad:
                continue
            where = self._origin(runner, update, losses)[1]
            if self.skipped >= self.max_skips:
                self._stop(update, f'{self.skipped} updates in a row had bad gradients; {where}')
            if since := sum(not updates[i] for i in updates if i > update):
                where += f' (updates until it was repeated: {since})'
            what = 'update left out, since a gradient is not finite'
            runner.logger.error(f'iteration {update + 1}: {what}: {where}')

    def _stop(self, iteration: int, what: str) -> None:
        back = 'The checkpoint to go back to: ' if self.back else 'There is no checkpoint yet'
        raise NonFiniteError(f'iteration {iteration + 1}: {what}. {back}{self.back or ""}')

    def _origin(self, runner: Runner, update: int, losses: dict[int, float]) -> tuple[Blame, str]:
        """Repeat the micro-batches of an update, on all processes at once, until one shows it."""
        found: list[Blame] = []
        group = range(update - update % self.accumulation, update + 1)
        for i in sorted(group, key=lambda i: math.isfinite(losses.get(i, 0.0))):
            found += all_gather_object(self._blame(runner, i, losses.get(i, 0.0)))
            found.sort(key=lambda each: (PLACES.index(each.place), math.isfinite(each.loss)))
            if found[0].place in ('weight', 'forward', 'backward'):
                break
        blame = found[0]
        elsewhere = blame.iteration != update and blame.place in ('forward', 'backward')
        where = f'in the micro-batch of iteration {blame.iteration + 1}, ' if elsewhere else ''
        return blame, f'{where}{blame}'

    def _blame(self, runner: Runner, iteration: int, loss: float = 0.0) -> Blame:
        """What this process finds when it repeats its part of an iteration, which gave a loss."""
        repeating = getattr(runner.train_loop, 'repeating', None)
        with repeating(iteration) if repeating else nullcontext() as forward:
            blame = find_blame(unwrapped(runner.model), forward)
        blame.iteration, blame.loss = iteration, loss
        return blame


def takes_verdict(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it leaves out an update where its ``found_inf`` is 1, as GradScaler asks it to."""
    own = own_part(optimizer)
    fused = all(group.get('fused') for group in own.param_groups)  # a checkpoint may say otherwise
    return fused and getattr(own, '_step_supports_amp_scaling', False)


@torch.no_grad()
def find_blame(model: nn.Module, forward: Callable[[], dict] | None = None) -> Blame:
    """Look at the weights, then repeat the pass and look at every module's output and gradient.

    The model, without wrappers, keeps the gradients and the buffers that it has. ``forward`` gives
    the losses of the pass, 'loss' their sum; None where it cannot be repeated.
    """
    segments = parameter_segments(model)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            where = f'the weight {name} ({segments[name]}) itself is not finite'
            return Blame('weight', where, name)
    cannot = 'the pass cannot be repeated to find the place'
    if forward is None:
        return Blame('unknown', cannot)
    try:
        with kept_buffers(model):
            losses, gradients, modules = _repeated(model, forward)
    except RuntimeError as error:  # such as memory for a second set of gradients
        said = str(error).partition('\n')[0]
        return Blame('unknown', f'{cannot} ({said})' if said else cannot)
    values = {name: value.item() for name, value in losses.items() if 'loss' in name}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    counts = dict(losses=values, bad_gradients=len(bad), gradients=len(gradients))
    if modules:
        around, name = modules[0], _first_below(modules[0], [*bad, *segments])
        near = name  # with a bad gradient, else the module's first
        while around and not near:  # without parameters, it belongs to the nearest one around it
            around = around.rpartition('.')[0]
            near = _first_below(around, segments)
        segment = segments[near] if around or name else 'model'
        where = f'the first bad value is in the output of {modules[0] or "the model"} ({segment})'
        where += f', parameter {name}' if name else ''
        return Blame('forward', where, name, modules[0], **counts)
    if bad:  # backward goes through the modules in the opposite order
        where = 'the forward pass is finite; on the way back the first bad gradient is that of '
        return Blame('backward', f'{where}{bad[-1]} ({segments[bad[-1]]})', bad[-1], **counts)
    return Blame('nowhere', 'the pass, repeated, is finite', **counts)


def _first_below(module: str, names: Iterable[str]) -> str:
    return next((n for n in names if n.startswith(f'{module}.' if module else '')), '')


def _repeated(model: nn.Module, forward: Callable[[], dict]) -> tuple[dict, dict, list[str]]:
    """Losses and gradients by name, and the modules that gave something not finite, in order."""
    bad: list[str] = []

    def look(name: str, module: nn.Module, inputs: object, output: object) -> None:
        given = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
        if not bad and not all(torch.isfinite(x).all() for x in given):
            bad.append(name)

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(look, name)))
        losses = forward()
        found = torch.autograd.grad(losses['loss'], trained.values(), allow_unused=True)
    gradients = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    return losses, gradients, bad
