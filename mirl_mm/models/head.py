"""What the decoders have to paint, and how far off they are.

Shapes: B batch, L patches, G segments, P pairs, V = p*p*C values of a patch, p its side in pixels,
C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModule
from mmengine.registry import METRICS, MODELS
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from mirl_mm.errors import UserError

from .masking import patchify

VAR_EPS = 1e-6


def mirrored(num_segments: int) -> list[tuple[int, int]]:
    """The paper's pairs (main, residual): segment g with segment G-1-g, g = 0 .. G/2-1."""
    return [(g, num_segments - 1 - g) for g in range(num_segments // 2)]


def neighbours(num_segments: int) -> list[tuple[int, int]]:
    """Segments 0 and 1, 2 and 3, ...: the shallow one of two paints the main part."""
    return [(g, g + 1) for g in range(0, num_segments, 2)]


def alone(num_segments: int) -> list[tuple[int]]:
    """Every segment by itself: deep supervision, without residuals."""
    return [(g,) for g in range(num_segments)]


PAIRINGS = dict(mirrored=mirrored, neighbours=neighbours, none=alone)


class Target(NamedTuple):
    """Patches to paint, and what undoes their normalisation: 0 and 1 where they have none."""

    patches: Tensor  # [B, L, V], by default of mean 0 and (unbiased) variance 1
    mean: Tensor  # [B, L, 1]
    std: Tensor  # [B, L, 1]


@MODELS.register_module()
class MIRLHead(BaseModule):
    """Pairs the decoders and holds the sum of each pair against the pixels of a patch.

    ``loss`` is the config of a module that is called as MIRLResidualLoss is, which None takes;
    ``pairing`` a name of :data:`PAIRINGS`. With ``norm_pix``, the official way, every patch is
    normalised by its own mean and deviation; without, pixels are as the data preprocessor gives
    them.
    """

    def __init__(
        self,
        loss: dict | None = None,
        patch_size: int = 16,
        in_channels: int = 3,
        pairing: str = 'mirrored',
        norm_pix: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if pairing not in PAIRINGS:
            raise UserError(f'unknown pairing {pairing!r}; known are {", ".join(PAIRINGS)}')
        self.patch_size, self.in_channels, self.norm_pix = patch_size, in_channels, norm_pix
        self.pairing = pairing
        self.loss_module = MODELS.build(loss or dict(type='MIRLResidualLoss'))

    def pairs(self, num_segments: int) -> list[tuple[int, ...]]:
        """Segments (main, residual) that paint together, or (main,) that paint alone."""
        if num_segments % 2 and self.pairing != 'none':
            needs = f'pairing={self.pairing!r} needs an even number of segments'
            raise UserError(f'{needs}, got {num_segments}; none takes any')
        return PAIRINGS[self.pairing](num_segments)

    def target(self, imgs: Tensor) -> Target:
        """Patches of [B, C, H, W]; the variance that normalises them is the unbiased one."""
        patches = patchify(imgs, self.patch_size)
        if not self.norm_pix:
            zeros = torch.zeros_like(patches[..., :1])
            return Target(patches, zeros, zeros + 1)
        mean = patches.mean(dim=-1, keepdim=True)
        std = (patches.var(dim=-1, keepdim=True) + VAR_EPS).sqrt()
        return Target((patches - mean) / std, mean, std)

    def compare(self, preds: Sequence[Tensor], target: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Hold G x [B, L, V] against a target [B, L, V] where the mask [B, L] is 1.

        Of every pair of every image, [B, P]: what to descend on, and the masked squared error,
        whatever the loss is (by default the same tensor).
        """

        def stacked(measure: nn.Module) -> Tensor:
            pairs = [[preds[g] for g in pair] for pair in self.pairs(len(preds))]
            if self.pairing == 'none':  # without a residual
                nothing = target.new_zeros(()).expand_as(target)
                pairs = [[pred, nothing] for (pred,) in pairs]
            return torch.stack([measure(*pair, target, mask) for pair in pairs], dim=1)

        losses = stacked(self.loss_module)
        if type(self.loss_module) is MIRLResidualLoss:
            return losses, losses
        with torch.no_grad():
            return losses, stacked(MIRLResidualLoss())


@MODELS.register_module()
class MIRLResidualLoss(nn.Module):
    """Masked mean squared error of a main component plus its residual."""

    def forward(self, main: Tensor, residual: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Three [B, L, V], a mask [B, L] -> [B], the mean over values, then over masked patches."""
        error = _SquaredError.apply(main, residual, target)  # [B, L]
        return (error * mask).sum(dim=1) / mask.sum(dim=1)


class _SquaredError(Function):
    """Mean square of main + residual - target over the last dimension, in the target's precision.

    The predictions have one gradient, made once and in their own precision: autograd's own steps
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


@METRICS.register_module()
class ReconstructionError(BaseMetric):
    """Masked MSE on the head's target, averaged over a validation set.

    Reads what ``MIRL.predict`` writes. Reports ``recon/error`` (mean over the pairs) and
    ``recon/pair_g_h``, or ``recon/pair_g`` of decoders that paint alone; lower is better. On
    per-patch normalised pixels, painting every patch in its mean colour gives about 1; errors with
    ``norm_pix=False`` are on another scale.
    """

    default_prefix = 'recon'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            pairs = (name for name in sample if name.startswith('pair_'))  # in the order of a set
            names = sorted(pairs, key=lambda name: int(name.split('_')[1]))
            row = {name: float(sample[name]) for name in names}
            self.results.append(dict(error=float(sample['recon_error']), **row))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        return {name: sum(row[name] for row in results) / len(results) for name in results[0]}
