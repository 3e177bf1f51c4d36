"""Where a value stopped being finite: in a weight, in a module's output, or on the way back."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mirl_mm.models.segments import parameter_segments

from .seeding import kept_buffers

PLACES = ('weight', 'forward', 'backward', 'nowhere', 'unknown')  # the most telling first


@dataclass
class Blame:
    """What was found; names as in ``named_parameters`` and ``named_modules``."""

    place: str  # one of PLACES
    parameter: str = ''  # the first bad one, or the first of the module
    segment: str = ''
    module: str = ''  # forward: the first whose output is not finite
    losses: dict[str, float] = field(default_factory=dict)  # of the repeated forward pass
    bad_gradients: int = 0
    gradients: int = 0
    why: str = ''  # unknown: what torch said
    iteration: int = 0  # that was repeated; its loss was this
    loss: float = 0.0

    def __str__(self) -> str:
        parameter = f', parameter {self.parameter}' if self.parameter else ''
        where = {
            'weight': f'the weight {self.parameter} ({self.segment}) itself is not finite',
            'forward': f'the first bad value is in the output of {self.module or "the model"} '
            f'({self.segment}){parameter}',
            'backward': 'the forward pass is finite; on the way back the first bad gradient is '
            f'that of {self.parameter} ({self.segment})',
            'nowhere': 'the pass, repeated, is finite',
            'unknown': 'the pass cannot be repeated to find the place',
        }[self.place]
        why = f' ({self.why})' if self.why else ''
        bad = f'; {self.bad_gradients} of {self.gradients} gradients are bad'
        losses = ', '.join(f'{name} {value:g}' for name, value in self.losses.items())
        return where + why + (bad if self.bad_gradients else '') + (f'; {losses}' if losses else '')


@torch.no_grad()
def find_blame(model: nn.Module, forward: Callable[[], dict] | None = None) -> Blame:
    """Look at the weights, then repeat the pass and look at every module's output and gradient.

    The model, without wrappers, keeps the gradients and the buffers that it has. ``forward`` gives
    the losses of the pass, 'loss' their sum; None where it cannot be repeated.
    """
    segments = parameter_segments(model)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return Blame('weight', name, segments[name])
    if forward is None:
        return Blame('unknown')
    try:
        with kept_buffers(model):
            losses, gradients, modules = _repeated(model, forward)
    except RuntimeError as error:  # such as memory for a second set of gradients
        return Blame('unknown', why=str(error).partition('\n')[0])
    values = {name: value.item() for name, value in losses.items() if 'loss' in name}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    counts = dict(losses=values, bad_gradients=len(bad), gradients=len(gradients))
    if modules:
        around, inside = modules[0], _below(modules[0], segments)
        # a bad gradient of the module itself, else its first parameter
        name = next((n for n in inside if n in bad), inside[0] if inside else '')
        while around and not inside:  # without parameters, it belongs to the nearest one around it
            around = around.rpartition('.')[0]
            inside = _below(around, segments)
        segment = segments[name or inside[0]] if around or name else 'model'
        return Blame('forward', name, segment, modules[0], **counts)
    if bad:  # backward goes through the modules in the opposite order
        return Blame('backward', bad[-1], segments[bad[-1]], **counts)
    return Blame('nowhere', **counts)


def _below(module: str, names: dict[str, str]) -> list[str]:
    return [name for name in names if name.startswith(f'{module}.' if module else '')]


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
