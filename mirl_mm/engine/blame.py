"""Where a value stopped being finite: in a weight, in a module's output, or on the way back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .segments import parameter_segments


@dataclass
class Blame:
    """What was found; names as in ``named_parameters`` and ``named_modules``."""

    place: str  # 'weight', 'forward', 'backward' or 'nowhere'
    module: str = ''  # forward: the first whose output is not finite
    parameter: str = ''  # the first bad one, or the first of the module
    segment: str = ''
    losses: dict[str, float] = field(default_factory=dict)  # of the repeated forward pass
    bad_gradients: int = 0
    gradients: int = 0

    def __str__(self) -> str:
        where = {
            'weight': f'the weight {self.parameter} ({self.segment}) itself is not finite',
            'forward': f'the first bad value is in the output of {self.module or "the model"} '
            f'({self.segment})' + (f', parameter {self.parameter}' if self.parameter else ''),
            'backward': 'the forward pass is finite; on the way back the first bad gradient is '
            f'that of {self.parameter} ({self.segment})',
            'nowhere': 'the forward pass, repeated, is finite',
        }[self.place]
        bad = f'; {self.bad_gradients} of {self.gradients} gradients are bad'
        losses = ', '.join(f'{name} {value:g}' for name, value in self.losses.items())
        return where + (bad if self.bad_gradients else '') + (f'; {losses}' if losses else '')


@torch.no_grad()
def find_blame(model: nn.Module, forward: Callable[[], dict] | None = None) -> Blame:
    """Look at weights and gradients, and at every module's output in a repeated forward pass.

    Args:
        model: after a backward pass, with its gradients; without wrappers.
        forward: repeats the pass as it was and returns its losses; None leaves it out.
    """
    named = dict(model.named_parameters())
    segments = parameter_segments(model)
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not is_finite(gradient)]
    counts = dict(bad_gradients=len(bad), gradients=len(gradients))
    for name, parameter in named.items():
        if not is_finite(parameter):
            return Blame('weight', '', name, segments[name], **counts)
    losses, module = ({}, None) if forward is None else _first_bad_output(model, forward)
    if module is not None:
        prefix = f'{module}.' if module else ''
        inside = [name for name in named if name.startswith(prefix)]
        # a bad gradient of the module itself, else its first parameter
        name = next((n for n in inside if n in bad), inside[0] if inside else '')
        segment = segments.get(name) or _segment_of(module, segments)
        return Blame('forward', module, name, segment, losses, **counts)
    if bad:  # backward goes through the modules in the opposite order
        return Blame('backward', '', bad[-1], segments[bad[-1]], losses, **counts)
    return Blame('nowhere', losses=losses, **counts)


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is; waits for the device."""
    return bool(torch.isfinite(tensor).all())


def _first_bad_output(model: nn.Module, forward: Callable) -> tuple[dict[str, float], str | None]:
    """The repeated pass's losses, and the first module that gave something not finite."""
    first: list[str] = []

    def look(name: str) -> Callable:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not first and not all(map(is_finite, _tensors(output))):
                first.append(name)

        return hook

    handles = [m.register_forward_hook(look(name)) for name, m in model.named_modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        losses = forward()
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    values = {n: sum(_tensors(v)).mean().item() for n, v in losses.items() if 'loss' in n}
    return values, (first[0] if first else None)


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, '__dataclass_fields__'):
        yield from _tensors(vars(output))


def _segment_of(module: str, segments: dict[str, str]) -> str:
    """Of a module without parameters: that of the nearest one around it that has some."""
    while module:
        module = module.rpartition('.')[0]
        for name, segment in segments.items():
            if module and name.startswith(f'{module}.'):
                return segment
    return 'model'
