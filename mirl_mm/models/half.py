"""bfloat16 with fewer kernels and bytes than autocast takes.

Autocast casts every weight by a kernel of its own and norms in float32. Here the weights of a block
are cast at once, a norm reads and writes bfloat16 (its statistics stay in float32), and the
gradient of a cast is added where it joins. The encoder's residual stream stays in float32; products
and attention are those of autocast, to which float16, with its small range, is left altogether.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Linear
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx

PLAIN = (nn.Linear, Linear, nn.LayerNorm)  # of torch, and mmcv's
HOOKS = ('_forward_pre_hooks', '_forward_hooks', '_backward_pre_hooks', '_backward_hooks')


class Layers:
    """Runs layers on bfloat16 copies of their weights, under an autocast to bfloat16.

    Everywhere else a layer runs as it is: in full precision, in compiled code, which fuses casts by
    itself, and where somebody listens to a layer or has replaced it. The autocast is that of the
    device of ``like``; ``parameters`` are cast with the layers', for :meth:`cast`.
    """

    def __init__(self, like: Tensor, layers: Sequence[nn.Module], *parameters: Tensor) -> None:
        self.device, self.dtype, self.copies = like.device.type, torch.bfloat16, {}
        if torch.compiler.is_compiling() or not torch.amp.is_autocast_available(self.device):
            return
        on = torch.is_autocast_enabled(self.device)
        if not on or torch.get_autocast_dtype(self.device) != self.dtype:
            return
        plain = [layer for layer in layers if is_plain(layer)]
        full = [p for layer in plain for p in (layer.weight, layer.bias) if p is not None]
        copies = iter(_Casts.apply(self.dtype, *full, *parameters) if full or parameters else ())
        for layer in plain:
            self.copies[layer] = next(copies), None if layer.bias is None else next(copies)
        self.copies.update(zip(parameters, copies, strict=True))

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The output of any layer but a norm."""
        return F.linear(x, *self.copies[layer]) if layer in self.copies else layer(x)

    def norm(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """x to go on with, and x normed, for the products that read it."""
        if layer not in self.copies:
            return x, layer(x)
        x, half = (x, x) if x.dtype == self.dtype else _Fork.apply(x, self.dtype)
        with no_autocast(self.device):
            return x, F.layer_norm(half, layer.normalized_shape, *self.copies[layer], layer.eps)

    def weights(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias that a Linear runs on."""
        return self.copies.get(layer) or (layer.weight, layer.bias)

    def cast(self, tensor: Tensor) -> Tensor:
        """A parameter's copy, or another tensor in the precision of the copies."""
        if tensor in self.copies:
            return self.copies[tensor]
        return tensor.to(self.dtype) if self.copies else tensor


def no_autocast(device: str) -> AbstractContextManager:
    """Switches autocast off for a while, where a kind of device has it."""
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is just a Linear or LayerNorm in float32, and nobody listens to it."""
    if type(layer) not in PLAIN or layer.weight is None or layer.weight.dtype != torch.float32:
        return False
    return not any(getattr(layer, name) for name in HOOKS)


class _Casts(Function):
    """Tensors in another type, all by one kernel; so are their gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(copies, tensors)
        return tuple(copies)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple:
        full = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(full, gradients)
        return None, *full


class _Fork(Function):
    """x, and x in another type; their gradients join in one addition."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x, x.to(dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, full: Tensor | None, half: Tensor | None) -> tuple:
        if half is None:
            return full, None
        return half.float() if full is None else full + half, None
