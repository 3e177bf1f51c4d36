"""The deep plain ViT encoder: mmpretrain's VisionTransformer plus a masked pass that taps segments.

Shapes: B batch, L patches, K kept patches, D width, G segments, R registers, E extra tokens (those
and cls).
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

    Register tokens (https://arxiv.org/abs/2309.16588) come behind cls and have no positions, as in
    DINOv2. They help inside the blocks alone: no output of the unmasked pass but ``raw`` has them,
    nor has what the masked pass hands on. Layer scale is ``layer_scale_init_value`` above 0.

    Args:
        arch: a name of :data:`ARCHS`, or a dict with ``embed_dims``, ``num_layers``, ``num_heads``
            and ``feedforward_channels``.
        img_size: pixels, one number or (height, width); each a multiple of ``patch_size``.
        num_segments: G, a divisor of the depth; None takes the arch's own (6 for a dict).
        mask_ratio: share of patches hidden by :meth:`encode_masked`.
        num_registers: R.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        attn_fp32: attention in float32 under mixed precision; for float16, which it overflows.
        compile_blocks: compile one block for all; a dict has arguments of torch.compile.
        **kwargs: the other arguments of mmpretrain's VisionTransformer.
    """

    arch_zoo = ARCHS
    stored_grid: tuple[int, int] | None = None  # (h, w) of the next file's positions; None: square

    def __init__(
        self,
        arch: str | dict,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_segments: int | None = None,
        mask_ratio: float = 0.75,
        num_registers: int = 0,
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
        if not isinstance(num_registers, int) or num_registers < 0:
            raise UserError(f'num_registers must be 0 or a number of tokens, got {num_registers!r}')
        self.mask_ratio, self.patch_size = mask_ratio, patch_size
        super().__init__(arch, img_size, patch_size, init_cfg=init_cfg, **kwargs)
        self.with_cp, self.num_registers = with_cp, num_registers
        if num_registers:
            zeros = torch.zeros(1, num_registers, self.embed_dims)
            self.register_tokens = nn.Parameter(zeros, requires_grad=self.frozen_stages <= 0)
            self.num_extra_tokens += num_registers
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
        if self.num_registers:
            nn.init.normal_(self.register_tokens, std=0.02)
        self._set_sincos_positions()

    def train(self, mode: bool = True) -> 'MIRLViT':
        """Set the mode and return the module, as torch does (mmpretrain's returns None)."""
        super().train(mode)
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """As mmpretrain's, with the registers beside cls, in layer 0."""
        own = param_name.replace('register_tokens', 'cls_token')
        return super().get_layer_depth(own, prefix)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Of cls and of h x w patches, [1, (1+)L, D]: the table, resized where it is of others."""
        source, mode = self.patch_resolution, self.interpolate_mode
        return self.resize_pos_embed(self.pos_embed, source, grid, mode, self._num_cls)

    def embed(self, imgs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Normalised [B, 3, H, W] -> the tokens [B, E+L, D] that enter block 0, and (h, w)."""
        x, grid = self.patch_embed(imgs)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.drop_after_pos(x + self.positions(grid))
        return self.pre_norm(self._with_registers(x)), grid

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """Normalised [B, 3, H, W] -> per tapped block, what ``out_type`` says of its tokens."""
        x, grid = self.embed(imgs)
        outs = []
        for i, block in enumerate(self.layers):
            x = block(x)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid))
        return tuple(outs)

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

        positions = self.positions(grid)
        visible = gather_tokens(self.patch_embed(imgs)[0], ids_keep)  # [B, K, D]
        visible = visible + F.embedding(ids_keep, positions[0, 1:])
        cls = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        x = self.drop_after_pos(torch.cat([cls, visible], dim=1))
        x = self.pre_norm(self._with_registers(x))
        stem, taps = self._without_registers(x), []
        blocks_per_segment = self.num_layers // self.num_segments
        for i, block in enumerate(self.layers, start=1):
            x = block(x)
            if i % blocks_per_segment == 0:
                taps.append(self._without_registers(x))
        taps[-1] = self.ln1(taps[-1])
        return MaskedFeatures(stem, tuple(taps), ids_restore, mask, grid)

    @property
    def _num_cls(self) -> int:
        return int(self.cls_token is not None)

    def _with_registers(self, x: Tensor) -> Tensor:
        """[B, (1+)N, D] -> [B, E+N, D]: behind cls, in front of the patches."""
        if not self.num_registers:
            return x
        cls, patches = x.tensor_split([self._num_cls], dim=1)
        return torch.cat([cls, self.register_tokens.expand(x.shape[0], -1, -1), patches], dim=1)

    def _without_registers(self, x: Tensor) -> Tensor:
        """The inverse."""
        if not self.num_registers:
            return x
        cls, _, patches = x.tensor_split([self._num_cls, self.num_extra_tokens], dim=1)
        return torch.cat([cls, patches], dim=1)

    def _set_sincos_positions(self) -> None:
        grid = tuple(self.patch_resolution)
        with torch.no_grad():
            self.pos_embed.copy_(sincos_positions(self.embed_dims, grid, bool(self._num_cls)))

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

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *_) -> None:
        """Resize positions of another grid: of :attr:`stored_grid`, else of a square one."""
        name, own = f'{prefix}pos_embed', self.pos_embed.shape
        given, extra = state_dict.get(name), self._num_cls
        source, self.stored_grid = self.stored_grid, None
        if given is None or given.ndim != 3:
            return  # (what is missing or wrong is told by others)
        if not extra and given.shape[1] == own[1] + 1:  # mmpretrain's rule
            given = state_dict[name] = given[:, 1:]
        number, grid = given.shape[1] - extra, tuple(self.patch_resolution)
        if source is None or math.prod(source) != number:
            source = grid if given.shape == own else (math.isqrt(max(number, 0)),) * 2
        if math.prod(source) != number:
            fault = f'{name!r} is {tuple(given.shape)} there and {tuple(own)} in this encoder'
            raise CheckpointError(f'{fault}; resized is from a square grid alone')
        if source != grid:
            words = '{}x{} to {}x{} patches'.format(*source, *grid)
            print_log(f'positions are resized from {words}', logger='current')
            mode = self.interpolate_mode
            state_dict[name] = self.resize_pos_embed(given, source, grid, mode, extra)


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
