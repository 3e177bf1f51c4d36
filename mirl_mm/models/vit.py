"""The deep plain ViT encoder: mmpretrain's VisionTransformer plus a masked pass that taps segments.

Shapes: B batch, L patches, K kept patches, D width, G segments.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from mirl_mm.errors import CheckpointError, UserError

from .archs import ARCHS, arch_settings, check_segments
from .block import BlockSettings, adopt
from .fit import compare, shapes
from .masking import check_image_size, gather_tokens, num_kept, random_masking, sincos_positions


class MaskedFeatures(NamedTuple):
    """What the masked pass hands to the neck (tokens are cls first, then kept patches)."""

    stem: Tensor  # [B, 1+K, D], the tokens that enter block 0
    taps: tuple[Tensor, ...]  # G x [B, 1+K, D], the output of each segment; the last one is normed
    ids_restore: Tensor  # [B, L]
    mask: Tensor  # [B, L], 0 kept, 1 masked
    grid: tuple[int, int]  # (h, w) patches


@MODELS.register_module()
class MIRLViT(VisionTransformer):
    """Plain ViT whose depth is split into equal segments.

    ``forward(x)`` is mmpretrain's: no mask, outputs by ``out_indices`` and ``out_type``.
    :meth:`encode_masked` is the pre-training pass. State-dict names are mmpretrain's.

    Args:
        arch: a name of :data:`ARCHS`, or a dict with ``embed_dims``, ``num_layers``, ``num_heads``
            and ``feedforward_channels``.
        img_size: pixels, one number or (height, width); each a multiple of ``patch_size``.
        num_segments: G, even and a divisor of the depth; None takes the arch's own (6 for a dict).
        mask_ratio: share of patches hidden by :meth:`encode_masked`.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        attn_fp32: attention in float32 under mixed precision; for float16, which it overflows.
        compile_blocks: compile one block for all; a dict has arguments of torch.compile.
        **kwargs: the other arguments of mmpretrain's VisionTransformer.
    """

    arch_zoo = ARCHS

    def __init__(
        self,
        arch: str | dict,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_segments: int | None = None,
        mask_ratio: float = 0.75,
        with_cp: bool = False,
        attn_fp32: bool = False,
        compile_blocks: bool | dict = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        settings = arch_settings(arch)
        if num_segments is None:
            num_segments = settings.get('num_segments', 6)
        self.num_segments = check_segments(num_segments, settings['num_layers'])
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_image_size((height, width), patch_size)
        num_kept(height // patch_size * (width // patch_size), mask_ratio)
        self.mask_ratio, self.patch_size = mask_ratio, patch_size
        super().__init__(arch, img_size, patch_size, init_cfg=init_cfg, **kwargs)
        self.with_cp = with_cp
        adopt(self.layers, BlockSettings.of(attn_fp32, with_cp, compile_blocks))
        self._set_sincos_positions()
        self._register_load_state_dict_pre_hook(self._check_load)

    def init_weights(self) -> None:
        """Xavier-uniform matrices, zero biases, cls N(0, 0.02); or what is ``Pretrained``."""
        super(VisionTransformer, self).init_weights()  # its own would redraw the positions
        if is_pretrained(self.init_cfg):
            return
        init_linears(self)
        nn.init.xavier_uniform_(self.patch_embed.projection.weight.flatten(1))
        if self.patch_embed.projection.bias is not None:
            nn.init.zeros_(self.patch_embed.projection.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        self._set_sincos_positions()

    def train(self, mode: bool = True) -> 'MIRLViT':
        """Set the mode and return the module, as torch does (mmpretrain's returns None)."""
        super().train(mode)
        return self

    def encode_masked(self, imgs: Tensor, noise: Tensor | None = None) -> MaskedFeatures:
        """Encode a random part of normalised [B, 3, H, W] and tap the end of every segment.

        Of the noise [B, L], the K smallest of a row are kept; None draws it uniformly.
        """
        if self.cls_token is None or not self.final_norm:
            raise UserError('masked encoding needs with_cls_token=True and final_norm=True')
        check_image_size(tuple(imgs.shape[-2:]), self.patch_size)
        grid = tuple(side // self.patch_size for side in imgs.shape[-2:])
        batch, num_patches = len(imgs), grid[0] * grid[1]
        if noise is None:
            noise = torch.rand(batch, num_patches, device=imgs.device)
        elif noise.shape != (batch, num_patches):
            needed = f'{batch} images of {grid[0]}x{grid[1]} patches need {(batch, num_patches)}'
            raise UserError(f'noise has shape {tuple(noise.shape)}; {needed}')
        ids_keep, ids_restore, mask = random_masking(noise, num_kept(num_patches, self.mask_ratio))

        source, mode = self.patch_resolution, self.interpolate_mode
        positions = self.resize_pos_embed(self.pos_embed, source, grid, mode, 1)
        visible = gather_tokens(self.patch_embed(imgs)[0], ids_keep)  # [B, K, D]
        visible = visible + F.embedding(ids_keep, positions[0, 1:])
        cls = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        stem = self.pre_norm(self.drop_after_pos(torch.cat([cls, visible], dim=1)))

        x, taps = stem, []
        blocks_per_segment = self.num_layers // self.num_segments
        for i, block in enumerate(self.layers, start=1):
            x = block(x)
            if i % blocks_per_segment == 0:
                taps.append(x)
        taps[-1] = self.ln1(taps[-1])
        return MaskedFeatures(stem, tuple(taps), ids_restore, mask, grid)

    def _set_sincos_positions(self) -> None:
        grid, has_cls = tuple(self.patch_resolution), self.cls_token is not None
        with torch.no_grad():
            self.pos_embed.copy_(sincos_positions(self.embed_dims, grid, has_cls))

    def _check_load(self, state_dict: dict, prefix: str, *_) -> None:
        """Stop a load that would fill this encoder only in part. Final norms may come and go."""
        own = {prefix + name: shape for name, shape in shapes(self.state_dict()).items()}
        who = f'this encoder ({self.embed_dims} wide, {self.num_layers} deep)'
        if not own.keys() & state_dict.keys():  # a child module is handed its own names alone
            like = f'none of its names starts like {next(iter(own))!r}'
            raise CheckpointError(f'the checkpoint holds no weight of {who}: {like}')
        compare(shapes(state_dict), own, who, prefix)
        if self.final_norm or prefix + 'ln1.weight' not in state_dict:
            return
        for kind in ('weight', 'bias'):  # MMEngine need not warn of the norm that is left out
            state_dict.pop(f'{prefix}ln1.{kind}', None)
        if self.out_type == 'avg_featmap' and f'{prefix}ln2.weight' not in state_dict:
            state_dict.update({f'{prefix}ln2.{k}': x for k, x in self.ln2.state_dict().items()})
            new = 'the norm behind the pooling (ln2) starts new: a pre-trained encoder has none'
            print_log(new, logger='current')

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Resize positions of a square grid."""
        own = tuple(self.pos_embed.shape)
        given = tuple(getattr(state_dict.get(f'{prefix}pos_embed'), 'shape', own))
        square = len(given) == 3 and math.isqrt(max(given[1] - 1, 0)) ** 2 + 1 == given[1]
        if given != own and not square and self.cls_token is not None:
            fault = f"'{prefix}pos_embed' is {given} there and {own} in this encoder"
            raise CheckpointError(f'{fault}; resized is from a square grid alone')
        super()._prepare_pos_embed(state_dict, prefix, *args)


def is_pretrained(init_cfg: dict | list[dict] | None) -> bool:
    """Whether an init_cfg reads the weights from a checkpoint."""
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    return any(cfg.get('type') in ('Pretrained', PretrainedInit) for cfg in configs)


def init_linears(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear inside."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
