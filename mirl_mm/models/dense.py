"""The encoder on images of any size, as maps for dense heads.

Reference: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet),
https://arxiv.org/abs/2203.16527, for windows with a few global blocks in between.

Shapes: B batch, h x w patches, L = h*w, E extra tokens (1 with cls, else 0), D width.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from mirl_mm.errors import UserError

from .archs import arch_settings
from .attention import Windows
from .half import no_autocast
from .vit import MIRLViT


@MODELS.register_module()
class MIRLDenseViT(MIRLViT):
    """MIRLViT for detection and segmentation: a tuple of NCHW maps, one per tapped block.

    Any height and width from 1 pixel on: the image is padded with zeros (the mean colour) at the
    right and bottom to full patches, and the maps are ceil(H/p) x ceil(W/p). Positions are resized
    to the map in every forward, by matrices that are cached per size and do not depend on the
    weights.

    With ``window_size``, the blocks outside ``global_indices`` attend inside windows; see
    :class:`Windows` for edges and cls. A map that fits in one window is treated globally.

    Args:
        arch, img_size, patch_size: as in MIRLViT; img_size is only the size of the position table.
        out_indices: blocks to tap, ascending; negative ones count from the end. Blocks after the
            last tap are not run, and are frozen.
        window_size: patches per side; 0 makes every block global.
        global_indices: the global blocks; None takes the last one of each quarter of the depth
            (13, 26, 40, 53 of 54).
        final_norm: norm the last block's output by the encoder's pre-trained final norm, as
            mmpretrain does; taps before the last block are never normed.
        frozen_stages: freeze patches, positions, cls and that many blocks, and keep them in eval
            mode; -1 and 0 freeze nothing.
        drop_path_rate: of the last block; it grows linearly from 0. A path is dropped for a whole
            image, never for a single window.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` reads a MIRL
            pre-training checkpoint.
        **kwargs: the other arguments of MIRLViT, except ``mask_ratio`` and ``out_type``.

    Raises:
        ValueError: a setting out of range; a checkpoint of another arch or without the prefix; in
            training, an image not smaller than img_size whose map does not fill one window, so
            that windows would do nothing.
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
        drop_path_rate: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        settings = arch_settings(arch)
        depth = settings['num_layers']
        if not isinstance(window_size, int) or window_size < 0:
            raise UserError(f'window_size must be 0 or a number of patches, got {window_size!r}')
        if global_indices is None:
            global_indices = sorted({-(-quarter * depth // 4) - 1 for quarter in (1, 2, 3, 4)})
        elif not window_size:
            raise UserError(
                f'global_indices={global_indices} has no effect with window_size=0: every block '
                'is global; give a window_size or leave it out'
            )
        if not -1 <= frozen_stages <= depth:
            raise UserError(f'frozen_stages must be -1 to {depth} (the depth), got {frozen_stages}')
        taps = [out_indices] if isinstance(out_indices, int) else out_indices
        taps = block_indices('out_indices', taps, depth)
        if not taps:
            raise UserError('out_indices names no block; give at least one')
        kwargs.setdefault('num_segments', settings.get('num_segments', 2))  # play no part here
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            out_indices=taps,
            final_norm=final_norm,
            frozen_stages=frozen_stages,
            drop_path_rate=drop_path_rate,
            out_type='featmap',
            init_cfg=init_cfg,
            **kwargs,
        )
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
            raise UserError(
                f'init_cfg={self.init_cfg} cannot be used: {error}. MIRL pre-training checkpoints '
                "have prefix='backbone.'; an encoder alone has none (leave it out)"
            ) from error

    def train(self, mode: bool = True) -> 'MIRLDenseViT':
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        if self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels [B, 3, H, W] -> one [B, D, h, w] per tapped block."""
        x, grid = self.patch_embed(imgs)  # [B, L, D]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.pre_norm(self.drop_after_pos(x + self._positions(grid)))  # [B, E+L, D]

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

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table resized to h x w, [1, E+L, D], as mmpretrain's resize_pos_embed.

        Resizing is linear and separable: two small matrix products. They cost a tenth of
        F.interpolate with its backward pass, which also is not deterministic on a GPU.
        """
        source = tuple(self.patch_resolution)
        if tuple(grid) == source:
            return self.pos_embed
        extra, table = self.pos_embed.tensor_split([self.num_extra_tokens], dim=1)
        rows, cols = (
            resizing_matrix(*lengths, self.interpolate_mode, table.device).to(table.dtype)
            for lengths in zip(source, grid, strict=True)
        )
        with no_autocast(table.device.type):
            table = (rows @ table.unflatten(1, source)[0].flatten(1)).unflatten(1, (source[1], -1))
            table = cols @ table  # [h, w, D]
        return torch.cat([extra, table.flatten(0, 1)[None]], dim=1)

    def _windows(self, grid: tuple[int, int]) -> Windows | None:
        if not self.window_size:
            return None
        small = any(map(int.__lt__, grid, self.patch_resolution))
        if self.training and not small and self.window_size > max(grid):
            raise UserError(
                f'window_size={self.window_size} (in patches) is larger than the map, '
                f'{grid[0]}x{grid[1]} patches, so windows do nothing; take at most '
                f'{max(grid) - 1}, or 0 for global attention'
            )
        if self.window_size >= max(grid):
            return None
        return Windows(grid, self.window_size, self.num_extra_tokens)


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
        raise UserError(
            f'{name}={tuple(indices)} does not fit: blocks are 0 to {depth - 1} (or -{depth} to -1 '
            'from the end), in ascending order and without repeats'
        )
    return resolved
