"""How many floating-point operations a training step needs for one image.

Counted are matrix products, convolutions and attention, a multiply-add as two operations, by
torch's own formulas; not norms, activations and what is recomputed under activation checkpointing.
So this is the *model's* work, the numerator of model FLOP utilisation (PaLM,
https://arxiv.org/abs/2204.02311, appendix B).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .cost import FLOPS
from .rehearsal import build


class Flops(NamedTuple):
    """Operations of a forward pass, and of forward and backward pass together."""

    forward: float
    training: float


def flops_per_image(
    model: Mapping,
    batch: int,
    image_size: tuple[int, int] | None = None,
    scope: str = 'mmpretrain',
) -> Flops:
    """The work for one image, where it follows from sizes alone.

    Args:
        model, image_size, scope: as :func:`rehearsal.build` takes them, which also says what of a
            detector is not counted.
        batch: images of a step, over which what is computed once a batch is spread (in MIRL the
            projections of masked tokens in a decoder's first block).
    """
    _, step = build(model, image_size, scope, 'meta')
    with torch.compiler.set_stance('force_eager'):
        whole = flops(lambda: step(batch))
    return Flops(whole.forward / batch, whole.training / batch)


def flops(forward: Callable[[], object]) -> Flops:
    """The work of a forward pass, and with the backward pass that would follow.

    A product has a product as large for every operand that wants a gradient.
    """
    with _Count() as count:
        forward()
    return Flops(count.forward, count.training)


class _Count(TorchDispatchMode):
    forward = 0
    training = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in FLOPS:
            number = FLOPS[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
            factors = [each for each in args if isinstance(each, Tensor) and each.dim() > 1]
            wanted = sum(each.requires_grad for each in factors) / len(factors)
            self.forward += number
            self.training += number * (1 + 2 * wanted)
        return result
