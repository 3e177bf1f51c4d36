"""Stride-16 maps of a plain ViT to the strides that detection and segmentation heads expect.

References: ViTDet's simple feature pyramid, https://arxiv.org/abs/2203.16527; one tap per level as
in BEiT and MAE, https://arxiv.org/abs/2106.08254.

Shapes: B batch, C input width, F output width, h x w the stride-16 map.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from mirl_mm.errors import UserError

STRIDES = (4, 8, 16, 32, 64)


@MODELS.register_module()
class MIRLPyramid(BaseModule):
    """One map per stride, by deconvolution (4, 8), identity (16) and max-pooling (32).

    Stride 64 takes every other pixel of the finished stride-32 map, as detection heads use it for
    their largest anchors; it has neither a tap nor parameters of its own.

    Args:
        in_channels: C.
        out_channels: F. Deconvolutions then halve the width at each step and every level ends in a
            1x1 and a 3x3 convolution with norms, as in ViTDet: ready for heads (256 in mmdet).
            None keeps the width C everywhere and adds no such convolutions, as in BEiT: for an FPN
            or UPerHead behind it, which have their own.
        mode: ``simple`` makes every level from one map; ``taps`` takes one map per level up to
            stride 32, the shallowest for the smallest stride.
        strides: an ascending part of (4, 8, 16, 32, 64); 64 needs 32.
        norm_cfg: LN over channels by default, which does not mind small batches or a CPU; any norm
            that mmpretrain builds (``BN``, ``SyncBN``, ``GN``, ``LN2d``).
        init_cfg: as in MMEngine.

    Raises:
        ValueError: a setting or an input that does not fit; it names both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        mode: str = 'simple',
        strides: Sequence[int] = (4, 8, 16, 32),
        norm_cfg: dict = dict(type='LN2d', eps=1e-6),  # noqa: B006
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if mode not in ('simple', 'taps'):
            raise UserError(f"mode must be 'simple' or 'taps', got {mode!r}")
        strides = list(strides)
        known = [stride for stride in STRIDES if stride in strides]
        if not strides or known != strides or (64 in strides and 32 not in strides):
            raise UserError(
                f'strides={tuple(strides)} does not fit: accepted is an ascending part of '
                f'{STRIDES}, where 64 needs 32'
            )
        self.in_channels, self.mode, self.strides = in_channels, mode, strides
        self.levels = nn.ModuleList(
            build_level(stride, in_channels, out_channels, norm_cfg)
            for stride in strides
            if stride < 64
        )
        self.num_inputs = len(self.levels) if mode == 'taps' else 1

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The backbone's maps [B, C, h, w] -> per stride s, [B, F or C, 16/s*h, 16/s*w]."""
        channels = [each.shape[1] for each in maps]
        if channels != [self.in_channels] * self.num_inputs:
            raise UserError(
                f'mode={self.mode!r} with strides={tuple(self.strides)} takes {self.num_inputs} '
                f'maps of in_channels={self.in_channels}; the backbone gives {len(channels)}, of '
                f'{channels} channels. Set out_indices or embed_dims there, or mode, strides or '
                'in_channels here'
            )
        if self.mode == 'simple':
            maps = [*maps] * len(self.levels)
        outs = [level(each) for level, each in zip(self.levels, maps, strict=True)]
        if 64 in self.strides:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def build_level(stride: int, width: int, out_channels: int | None, norm_cfg: dict) -> nn.Sequential:
    """From stride 16 to the given one."""

    def narrower(channels: int) -> int:
        return channels if out_channels is None else channels // 2

    level = nn.Sequential()
    if stride == 4:
        level.append(nn.ConvTranspose2d(width, narrower(width), kernel_size=2, stride=2))
        width = narrower(width)
        level.append(build_norm_layer(norm_cfg, width))
        level.append(nn.GELU())
    if stride in (4, 8):
        level.append(nn.ConvTranspose2d(width, narrower(width), kernel_size=2, stride=2))
        width = narrower(width)
    if stride == 32:  # ceil: a map of one pixel stays one pixel
        level.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True))
    if out_channels is not None:
        for kernel_size in (1, 3):
            level.append(
                nn.Conv2d(width, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
            )
            level.append(build_norm_layer(norm_cfg, out_channels))
            width = out_channels
    return level
