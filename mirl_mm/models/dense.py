"""For dense heads: the encoder on images of any size, and its stride-16 maps to other strides.

References: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet),
https://arxiv.org/abs/2203.16527, for windows with a few global blocks in between and for the simple
pyramid; one tap per level as in BEiT and MAE, https://arxiv.org/abs/2106.08254.

Shapes: B batch, h x w patches, L = h*w, E extra tokens (cls and registers), D width, C and F input
and output width of a pyramid.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from mirl_mm.errors import UserError

from .archs import arch_settings
from .block import Windows
from .half import no_autocast
from .vit import MIRLViT

STRIDES = (4, 8, 16, 32, 64)


@MODELS.register_module()
class MIRLDenseViT(MIRLViT):
    """MIRLViT for detection and segmentation: a tuple of NCHW maps, one per tapped block.

    An image of any size is padded with zeros (the mean colour) at the right and bottom to full
    patches; the maps are ceil(H/p) x ceil(W/p), and positions are resized to them in every forward.

    Args:
        arch, img_size, patch_size: as in MIRLViT; img_size is only the size of the position table.
        out_indices: blocks to tap, ascending; negative ones count from the end. Blocks after the
            last tap are not run, and are frozen.
        window_size: patches per side of :class:`Windows`; 0 makes every block global, as is a map
            that fits in one. In training, windows that do nothing for images not smaller than
            img_size are an error.
        global_indices: the blocks without windows; None takes the last one of each quarter of the
            depth (13, 26, 40, 53 of 54).
        final_norm: norm the last block's output by the encoder's pre-trained final norm, as
            mmpretrain does; taps before the last block are never normed.
        frozen_stages: freeze patches, positions, cls and that many blocks, and keep them in eval
            mode; -1 and 0 freeze nothing.
        **kwargs: the other arguments of MIRLViT, except ``mask_ratio`` and ``out_type``. A path is
            dropped (``drop_path_rate``) for a whole image, never for a window.
            ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` reads a MIRL
            pre-training checkpoint.
    """

    def __init__(
        self,
        arch: str | dict,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        out_indices: int | Sequence[int] = -1,
        window_size: int = 0,
        global_indices: Sequence[int] | None = None,
        final_norm: bool = True,
        frozen_stages: int = -1,
        **kwargs,
    ) -> None:
        depth = arch_settings(arch)['num_layers']
        if not isinstance(window_size, int) or window_size < 0:
            raise UserError(f'window_size must be 0 or a number of patches, got {window_size!r}')
        if global_indices is None:
            global_indices = sorted({-(-quarter * depth // 4) - 1 for quarter in (1, 2, 3, 4)})
        elif not window_size:
            wrong = f'global_indices={global_indices} has no effect with window_size=0'
            raise UserError(f'{wrong}: every block is global; give a window_size or leave it out')
        if not -1 <= frozen_stages <= depth:
            raise UserError(f'frozen_stages must be -1 to {depth} (the depth), got {frozen_stages}')
        taps = [out_indices] if isinstance(out_indices, int) else out_indices
        taps = block_indices('out_indices', taps, depth)
        if not taps:
            raise UserError('out_indices names no block; give at least one')
        kwargs.setdefault('num_segments', arch_settings(arch).get('num_segments', 2))  # unused
        maps = dict(out_indices=taps, out_type='featmap', final_norm=final_norm)
        super().__init__(arch, img_size, patch_size, frozen_stages=frozen_stages, **maps, **kwargs)
        self.window_size = window_size
        self.global_indices = block_indices('global_indices', global_indices, depth)
        unused = [*self.layers[taps[-1] + 1 :]]
        if unused and final_norm:
            unused.append(self.ln1)
        for module in unused:  # distributed training would wait for their gradients
            module.requires_grad_(False)

    def init_weights(self) -> None:
        """As MIRLViT's; a checkpoint without the prefix of ``init_cfg`` is a ValueError."""
        try:
            super().init_weights()
        except AssertionError as error:
            fault = f'init_cfg={self.init_cfg} cannot be used: {error}'
            have = "have prefix='backbone.'; an encoder alone has none (leave it out)"
            raise UserError(f'{fault}. MIRL pre-training checkpoints {have}') from error

    def train(self, mode: bool = True) -> 'MIRLDenseViT':
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        if self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels [B, 3, H, W] -> one [B, D, h, w] per tapped block."""
        x, grid = self.embed(imgs)  # [B, E+L, D]
        grid = tuple(map(int, grid))  # (tensors under torch.jit.trace, as get_flops.py has it)
        windows, inside, maps = self._windows(grid), False, []
        for i in range(self.out_indices[-1] + 1):
            enters = windows is not None and i not in self.global_indices
            if enters != inside:
                x = windows.enter(x) if enters else windows.leave(x)
                inside = enters
            x = self.layers[i](x, windows if inside else None)
            if i in self.out_indices:
                tokens = windows.leave(x) if inside else x
                if i == self.num_layers - 1 and self.final_norm:
                    tokens = self.ln1(tokens)
                maps.append(self._format_output(tokens, grid))
        return tuple(maps)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """As MIRLViT's, which are mmpretrain's.

        By two small matrix products: a tenth of F.interpolate's cost, and deterministic on a GPU.
        """
        source, grid = tuple(self.patch_resolution), tuple(map(int, grid))
        if grid == source:
            return self.pos_embed
        extra, table = self.pos_embed.tensor_split([self._num_cls], dim=1)
        rows, cols = (
            resizing_matrix(*lengths, self.interpolate_mode, table.device).to(table.dtype)
            for lengths in zip(source, grid, strict=True)
        )
        with no_autocast(table.device.type):
            table = (rows @ table.unflatten(1, source)[0].flatten(1)).unflatten(1, (source[1], -1))
            table = cols @ table  # [h, w, D]
        return torch.cat([extra, table.flatten(0, 1)[None]], dim=1)

    def _windows(self, grid: tuple[int, int]) -> Windows | None:
        small = any(map(int.__lt__, grid, self.patch_resolution))
        if self.training and not small and self.window_size > max(grid):
            wrong = f'window_size={self.window_size} (in patches) is larger than the map'
            size, most = f'{grid[0]}x{grid[1]} patches, so windows do nothing', max(grid) - 1
            raise UserError(f'{wrong}, {size}; take at most {most}, or 0 for global attention')
        cut = 0 < self.window_size < max(grid)
        return Windows(grid, self.window_size, self.num_extra_tokens) if cut else None


@lru_cache(maxsize=128)
def resizing_matrix(source: int, target: int, mode: str, device: torch.device) -> Tensor:
    """[target, source]: what F.interpolate does along one side. Cached: do not write into it."""
    with torch.inference_mode(False), torch.no_grad():  # a training step may use it later
        unit = torch.eye(source, device=device)[None, :, :, None]
        return F.interpolate(unit, (target, 1), mode=mode)[0, :, :, 0].T.contiguous()


def block_indices(name: str, indices: Sequence[int], depth: int) -> list[int]:
    """Indices from the start; ValueError if they are outside the depth or not ascending."""
    outside = [i for i in indices if not -depth <= i < depth]
    resolved = [i % depth for i in indices]
    if outside or resolved != sorted(set(resolved)):
        accepted = f'blocks are 0 to {depth - 1} (or -{depth} to -1 from the end)'
        fault = f'{name}={tuple(indices)} does not fit: {accepted}'
        raise UserError(f'{fault}, in ascending order and without repeats')
    return resolved


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
        strides: an ascending part of (4, 8, 16, 32, 64); 64 needs 32. In sixteenths of a patch:
            behind patches of 14 px, 4 is 3.5 px, and heads have to be told that.
        norm_cfg: any norm that mmpretrain builds; LN over channels does not mind small batches.
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
        known = [stride for stride in STRIDES if stride in strides]
        if not known or known != list(strides) or (64 in known and 32 not in known):
            accepted = f'accepted is an ascending part of {STRIDES}, where 64 needs 32'
            raise UserError(f'strides={tuple(strides)} does not fit: {accepted}')
        self.in_channels, self.mode, self.strides = in_channels, mode, known
        sizes = (in_channels, out_channels, norm_cfg)
        self.levels = nn.ModuleList(build_level(s, *sizes) for s in known if s < 64)
        self.num_inputs = len(self.levels) if mode == 'taps' else 1

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The backbone's maps [B, C, h, w] -> per stride s, [B, F or C, 16/s*h, 16/s*w]."""
        channels = [each.shape[1] for each in maps]
        if channels != [self.in_channels] * self.num_inputs:
            here = f'mode={self.mode!r} with strides={tuple(self.strides)} takes {self.num_inputs}'
            here += f' maps of in_channels={self.in_channels}'
            there = f'the backbone gives {len(channels)}, of {channels} channels'
            how = 'Set out_indices or embed_dims there, or mode, strides or in_channels here'
            raise UserError(f'{here}; {there}. {how}')
        if self.mode == 'simple':
            maps = [*maps] * len(self.levels)
        outs = [level(each) for level, each in zip(self.levels, maps, strict=True)]
        if 64 in self.strides:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def build_level(stride: int, width: int, out_channels: int | None, norm_cfg: dict) -> nn.Sequential:
    """From stride 16 to the given one."""
    level = nn.Sequential()
    for step in range({4: 2, 8: 1}.get(stride, 0)):
        if step:
            level.extend([build_norm_layer(norm_cfg, width), nn.GELU()])
        narrower = width if out_channels is None else width // 2
        level.append(nn.ConvTranspose2d(width, narrower, kernel_size=2, stride=2))
        width = narrower
    if stride == 32:  # ceil: a map of one pixel stays one pixel
        level.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True))
    for kernel_size in () if out_channels is None else (1, 3):
        padding = kernel_size // 2
        level.append(nn.Conv2d(width, out_channels, kernel_size, padding=padding, bias=False))
        level.append(build_norm_layer(norm_cfg, out_channels))
        width = out_channels
    return level
