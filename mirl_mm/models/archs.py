"""The size of an encoder: read off its weights, a module, a name of the table or a file's meta."""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from mmengine.logging import print_log
from mmpretrain.models.utils import LayerScale
from torch import Tensor, nn

from mirl_mm.errors import CheckpointError, UserError
from mirl_mm.files import is_like

BACKBONE, POSITIONS, REGISTERS = 'backbone.', 'pos_embed', 'register_tokens'
DECODERS = ('decoder_embed_dim', 'decoder_depth', 'decoder_num_heads')  # arguments of MIRLNeck

_LAYER = re.compile(r'backbone\.layers\.(\d+)\.')
_SCALE = 'layers.0.attn.gamma1.weight'
_ENCODER = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
_SIZES = (*_ENCODER, 'patch_size')


def _arch(width: int, depth: int, heads: int, segments: int, decoders: tuple) -> dict:
    """Sizes under the names that encoder and neck take; decoders: width, blocks, heads."""
    encoder = dict(zip(_ENCODER, (width, depth, heads, 4 * width), strict=True))
    return dict(encoder, num_segments=segments, **dict(zip(DECODERS, decoders, strict=True)))


# Named as in the paper: S or B for the width, then the depth. The 384-wide models have 12 heads.
# Of s54 and b48 all is official; 4 segments are the paper's figure, and the other decoders ours.
ARCHS = {
    'test': _arch(48, 12, 4, 6, (32, 1, 4)),
    's12': _arch(384, 12, 12, 4, (384, 2, 16)),
    's54': _arch(384, 54, 12, 6, (384, 1, 12)),
    'b12': _arch(768, 12, 12, 4, (512, 2, 16)),
    'b24': _arch(768, 24, 12, 4, (512, 2, 16)),
    'b48': _arch(768, 48, 12, 6, (512, 2, 16)),
    # The sizes of others' weights: MAE's and DINOv2's L, and MAE's H (of 14 px patches).
    'l24': _arch(1024, 24, 16, 4, (512, 2, 16)),
    'h32': _arch(1280, 32, 16, 4, (512, 2, 16)),
}


@dataclass(frozen=True)
class EncoderArch:
    """What has to agree between a checkpoint and a model. Weights do not tell the heads."""

    embed_dims: int
    num_layers: int
    feedforward_channels: int
    patch_size: int  # pixels
    num_heads: int | None = None  # None: not known
    in_channels: int = 3
    img_size: tuple[int, int] | None = None  # pixels that the positions are for; may differ
    num_registers: int = 0
    layer_scale: bool = False
    norm_eps: float | None = None  # of layer norms; None: not known

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> 'EncoderArch':
        """Read it off weights under our full-model names, which need patch projection and MLP."""
        projection, mlp = 'patch_embed.projection.weight', 'layers.0.ffn.layers.0.0.weight'
        for name, ndim in ((projection, 4), (mlp, 2)):
            if getattr(state.get(BACKBONE + name), 'ndim', 0) != ndim:
                fault = f'{BACKBONE + name!r} is missing or not of {ndim} dimensions'
                raise CheckpointError(f'no whole encoder: {fault}')
        width, channels, patch, _ = state[BACKBONE + projection].shape
        depth = 1 + max(int(found[1]) for name in state if (found := _LAYER.match(name)))
        hidden, number = len(state[BACKBONE + mlp]), max(num_positions(state) - 1, 0)
        side = math.isqrt(number)  # of a square grid
        size = (side * patch,) * 2 if side and side**2 == number else None
        own = dict(in_channels=channels, img_size=size, layer_scale=BACKBONE + _SCALE in state)
        if (registers := state.get(BACKBONE + REGISTERS)) is not None:
            own['num_registers'] = registers.shape[1]
        return cls(width, depth, hidden, patch, **own)

    @classmethod
    def of_module(cls, backbone: nn.Module) -> 'EncoderArch | None':
        """Of one of mmpretrain's ViTs or ours; None for another module."""
        settings = getattr(backbone, 'arch_settings', None)
        projection = getattr(getattr(backbone, 'patch_embed', None), 'projection', None)
        if not isinstance(settings, Mapping) or not isinstance(projection, nn.Conv2d):
            return None
        patches = dict(patch_size=projection.kernel_size[0], in_channels=projection.in_channels)
        numbers, first = {key: settings[key] for key in _ENCODER}, backbone.layers[0]
        own = dict(img_size=tuple(backbone.img_size), norm_eps=getattr(first.ln1, 'eps', None))
        own['num_registers'] = getattr(backbone, 'num_registers', 0)
        scaled = isinstance(getattr(first.attn, 'gamma1', None), LayerScale)
        return cls(**numbers, **patches, **own, layer_scale=scaled)

    @classmethod
    def of_meta(cls, meta: Mapping) -> 'EncoderArch | None':
        """As stored in a file's meta by :meth:`to_meta`; None where nothing is."""
        stored = meta.get('arch')
        if not is_like(stored, {key: int for key in _SIZES if key != 'num_heads'}):
            return None
        fields = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        size, eps = fields.pop('img_size', None) or (), fields.pop('norm_eps', None)
        numbers = [x for x in fields.values() if x is not None]
        numbers += size if isinstance(size, list | tuple) and len(size) in (0, 2) else [None]
        sound = is_like(numbers, [int]) and is_like(eps, float | None) and min(numbers) >= 0
        if not sound or not stored['patch_size']:
            raise CheckpointError(f'the arch stored with it is damaged: {stored}')
        return cls(**fields, img_size=tuple(size) or None, norm_eps=eps)

    def to_meta(self) -> dict:
        """Plain data, with the name from the table (or None)."""
        return dict(asdict(self), img_size=self.img_size and list(self.img_size), name=self.name)

    def named(self, name: str) -> 'EncoderArch':
        """This arch with the numbers of the table; patch, channels and positions stay."""
        return replace(self, **{key: arch_settings(name)[key] for key in _ENCODER})

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) patches that the positions are for."""
        return self.img_size and tuple(side // self.patch_size for side in self.img_size)

    @property
    def positions(self) -> int:
        """Of patches and cls; 0 where the size is not known."""
        return math.prod(self.grid) + 1 if self.grid else 0

    @property
    def name(self) -> str | None:
        """The arch's name in the table, if the numbers that are known are there."""
        own = {key: size for key in _ENCODER if (size := getattr(self, key)) is not None}
        return next((name for name, known in ARCHS.items() if own.items() <= known.items()), None)

    def __str__(self) -> str:
        heads = '' if self.num_heads is None else f', {self.num_heads} heads'
        numbers = f'{self.embed_dims} wide, {self.num_layers} deep{heads}'
        size = '' if self.img_size is None else ', positions of {}x{} px'.format(*self.img_size)
        name = f'{self.name} ({numbers})' if self.name else numbers
        size += f', {self.num_registers} registers' if self.num_registers else ''
        size += ', layer scale' if self.layer_scale else ''
        if self.norm_eps not in (None, 1e-6):  # which is mmpretrain's own
            size += f", norm_cfg=dict(type='LN', eps={self.norm_eps:g})"
        size += f', {self.in_channels} channels' if self.in_channels != 3 else ''
        return f'{name}, patches of {self.patch_size} px{size}'


def num_positions(state: Mapping[str, Tensor]) -> int:
    """L of positions [1, L, D] under our names; 0 where there are none, or in another shape."""
    positions = state.get(BACKBONE + POSITIONS)
    return positions.shape[1] if positions is not None and positions.ndim == 3 else 0


def arch_settings(arch: str | dict) -> dict:
    """The numbers of an arch name or dict; an error says which names and keys are accepted."""
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise UserError(f'unknown arch {arch!r}; known are {", ".join(ARCHS)}, or a dict')
        return ARCHS[arch.lower()]
    if missing := [key for key in _ENCODER if key not in arch]:
        needed = f'needed are {", ".join(_ENCODER)}, got {sorted(arch)}'
        raise UserError(f'the arch dict lacks {", ".join(missing)}; {needed}')
    width, heads = arch['embed_dims'], arch['num_heads']
    if width % heads:
        raise UserError(f'embed_dims={width} must be a multiple of num_heads={heads} in the arch')
    return arch


def check_segments(num_segments: int, depth: int) -> int:
    """Return num_segments if it divides the depth; an error names what does."""
    fitting = [n for n in range(1, depth + 1) if depth % n == 0]
    if num_segments not in fitting:
        wrong = f'num_segments={num_segments} does not fit a depth of {depth}'
        raise UserError(f'{wrong}: it must divide the depth, so one of {fitting}')
    return num_segments


def expect(encoder: nn.Module | None, stored: EncoderArch | None, who: str) -> None:
    """Before a file's weights are loaded: refuse another arch, tell the grid of its positions."""
    check_same(stored, own := EncoderArch.of_module(encoder), who)
    eps = getattr(stored, 'norm_eps', None), getattr(own, 'norm_eps', None)
    if None not in eps and eps[0] != eps[1]:
        told = 'norms of the weights have eps={:g}, and {:g} in {}: norm_cfg of the encoder sets it'
        print_log(told.format(*eps, who), 'current', logging.WARNING)
    if hasattr(encoder, 'stored_grid'):
        encoder.stored_grid = stored.grid if stored else None


def check_same(
    given: EncoderArch | None, wanted: EncoderArch | None, who: str, keys: Iterable[str] = _SIZES
) -> None:
    """Refuse a file's arch of other sizes than a model's (``who``), where both are known."""
    for key in keys:
        left, right = getattr(given, key, None), getattr(wanted, key, None)
        if None not in (left, right) and left != right:
            other = f'its {key} is {left}, and {right} in {who}'
            raise CheckpointError(f'the checkpoint is of another arch: {other}')
