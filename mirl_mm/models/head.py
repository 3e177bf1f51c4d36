"""What the decoders have to paint, and how far off they are.

Shapes: B batch, L patches, G segments, p patch side in pixels, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from .masking import patchify, take_patches

VAR_EPS = 1e-6


class Target(NamedTuple):
    """Patches normalised by their own statistics, and the statistics."""

    patches: Tensor  # [B, L, p*p*C], mean 0 and (unbiased) variance 1
    mean: Tensor  # [B, L, 1]
    std: Tensor  # [B, L, 1]


@MODELS.register_module()
class MIRLResidualLoss(nn.Module):
    """Masked mean squared error of a main component plus its residual."""

    def forward(self, main: Tensor, residual: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Per-image error [B]: mean over the values of a patch, then over the masked patches.

        Args:
            main: [B, L, V] from a shallow decoder.
            residual: [B, L, V] from the mirrored deep decoder.
            target: [B, L, V]; its precision is the one used here.
            mask: [B, L], 1 where the error counts.
        """
        error = _SquaredError.apply(main, residual, target)  # [B, L]
        return (error * mask).sum(dim=1) / mask.sum(dim=1)


class _SquaredError(Function):
    """Mean square of main + residual - target over the last dimension.

    The predictions have one gradient, made once and in their own precision; autograd's own steps
    would read and write the errors three times as often.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, main: Tensor, residual: Tensor, target: Tensor) -> Tensor:
        error = main - target + residual
        ctx.save_for_backward(error)
        ctx.dtype = main.dtype
        return torch.linalg.vector_norm(error, dim=-1).square() / error.shape[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = ctx.saved_tensors
        scale = gradient.unsqueeze(-1) * (2 / error.shape[-1])
        made = torch.mul(error, scale, out=torch.empty_like(error, dtype=ctx.dtype))
        return made, made, -made.to(error.dtype) if ctx.needs_input_grad[2] else None


@MODELS.register_module()
class MIRLHead(BaseModule):
    """Pairs decoder g with decoder G-1-g and holds their sum against normalised pixels.

    Args:
        loss: config of the loss module.
        patch_size: p, pixels.
        in_channels: C.
        init_cfg: as in MMEngine.
    """

    def __init__(
        self,
        loss: dict | None = None,
        patch_size: int = 16,
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.loss_module = MODELS.build(loss or dict(type='MIRLResidualLoss'))

    def target(self, imgs: Tensor, ids: Tensor | None = None) -> Target:
        """Per-patch normalised pixels of [B, C, H, W]; the variance is the unbiased one.

        With ids [B, M], of those patches alone, in that order.
        """
        if ids is None:
            patches = patchify(imgs, self.patch_size)
        else:
            patches = take_patches(imgs, ids, self.patch_size)
        mean = patches.mean(dim=-1, keepdim=True)
        std = (patches.var(dim=-1, keepdim=True) + VAR_EPS).sqrt()
        return Target((patches - mean) / std, mean, std)

    def pair_errors(self, preds: Sequence[Tensor], target: Tensor, mask: Tensor) -> Tensor:
        """Error of every pair for every image: [B, G/2], pairs ordered (0, G-1), (1, G-2), ..."""
        return torch.stack(
            [self.loss_module(main, residual, target, mask) for main, residual in pairs(preds)],
            dim=1,
        )


def pairs(preds: Sequence) -> list[tuple]:
    """(main, residual) pairs: the g-th with the (G-1-g)-th, g = 0 .. G/2-1."""
    half = len(preds) // 2
    return list(zip(preds[:half], reversed(preds[half:]), strict=True))
