"""The size of an encoder: read off its weights, a module, a name of the table or a file's meta."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from mirl_mm.errors import CheckpointError, UserError

BACKBONE = 'backbone.'

_LAYER = re.compile(r'backbone\.layers\.(\d+)\.')
_SIZES = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels', 'patch_size')


def _arch(width: int, depth: int, heads: int, segments: int) -> dict:
    return dict(
        embed_dims=width,
        num_layers=depth,
        num_heads=heads,
        feedforward_channels=4 * width,
        num_segments=segments,
    )


# Named as in the paper: S or B for the width, then the depth. The 384-wide models have 12 heads.
# 6 segments are official for s54 and b48; 4 is the paper's figure.
ARCHS = {
    'test': _arch(48, 12, 4, 6),
    's12': _arch(384, 12, 12, 4),
    's54': _arch(384, 54, 12, 6),
    'b12': _arch(768, 12, 12, 4),
    'b24': _arch(768, 24, 12, 4),
    'b48': _arch(768, 48, 12, 6),
}
DICT_ARCH_SEGMENTS = 6


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

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> 'EncoderArch':
        """Read it off weights under our full-model names.

        Raises:
            ValueError: the encoder's patch projection or MLP is not there.
        """
        needed = ['patch_embed.projection.weight', 'layers.0.ffn.layers.0.0.weight']
        for name in needed:
            if BACKBONE + name not in state:
                raise CheckpointError(f'no whole encoder: {BACKBONE + name!r} is missing')
        width, channels, patch, _ = state[BACKBONE + needed[0]].shape
        layers = {int(found[1]) for name in state if (found := _LAYER.match(name))}
        positions = state.get(BACKBONE + 'pos_embed')
        return cls(
            width,
            max(layers) + 1,
            state[BACKBONE + needed[1]].shape[0],
            patch,
            in_channels=channels,
            img_size=None if positions is None else _square(positions.shape[1] - 1, patch),
        )

    @classmethod
    def of_module(cls, backbone: nn.Module) -> 'EncoderArch | None':
        """Of one of mmpretrain's ViTs or ours; None for another module."""
        settings = getattr(backbone, 'arch_settings', None)
        projection = getattr(getattr(backbone, 'patch_embed', None), 'projection', None)
        if not isinstance(settings, Mapping) or not isinstance(projection, nn.Conv2d):
            return None
        return cls(
            settings['embed_dims'],
            settings['num_layers'],
            settings['feedforward_channels'],
            projection.kernel_size[0],
            settings['num_heads'],
            projection.in_channels,
            tuple(backbone.img_size),
        )

    @classmethod
    def of_meta(cls, meta: Mapping) -> 'EncoderArch | None':
        """As stored in a file's meta by :meth:`to_meta`; None where nothing is."""
        stored = meta.get('arch')
        needed = ('embed_dims', 'num_layers', 'feedforward_channels', 'patch_size')
        if not isinstance(stored, Mapping) or not all(
            isinstance(stored.get(key), int) for key in needed
        ):
            return None
        fields = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        size = fields.get('img_size')
        return cls(**{**fields, 'img_size': None if size is None else tuple(size)})

    def to_meta(self) -> dict:
        """Plain data, with the name from the table (or None)."""
        size = None if self.img_size is None else list(self.img_size)
        return dict(asdict(self), img_size=size, name=self.name)

    def named(self, name: str) -> 'EncoderArch':
        """This arch with the numbers of the table; patch, channels and positions stay.

        Raises:
            ValueError: an unknown name; the known ones are listed.
        """
        settings = arch_settings(name)
        numbers = {key: settings[key] for key in _SIZES if key in settings}
        return EncoderArch(**{**asdict(self), **numbers})

    @property
    def name(self) -> str | None:
        """The arch's name in the table, if the numbers that are known are there."""
        for name, known in ARCHS.items():
            if all(getattr(self, key) in (None, known[key]) for key in _SIZES if key in known):
                return name
        return None

    def __str__(self) -> str:
        heads = '' if self.num_heads is None else f', {self.num_heads} heads'
        numbers = f'{self.embed_dims} wide, {self.num_layers} deep{heads}'
        size = '' if self.img_size is None else ', positions of {}x{} px'.format(*self.img_size)
        name = f'{self.name} ({numbers})' if self.name else numbers
        return f'{name}, patches of {self.patch_size} px{size}'


def arch_settings(arch: str | dict) -> dict:
    """The numbers of an arch name or dict; ValueError says which names and keys are accepted."""
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise UserError(f'unknown arch {arch!r}; known are {", ".join(ARCHS)}, or a dict')
        return ARCHS[arch.lower()]
    needed = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
    missing = [key for key in needed if key not in arch]
    if missing:
        raise UserError(
            f'the arch dict lacks {", ".join(missing)}; needed are '
            f'{", ".join(needed)}, got {sorted(arch)}'
        )
    if arch['embed_dims'] % arch['num_heads']:
        raise UserError(
            f'embed_dims={arch["embed_dims"]} of the arch dict must be a multiple of '
            f'num_heads={arch["num_heads"]}'
        )
    return arch


def check_segments(num_segments: int, depth: int) -> int:
    """Return num_segments if it is even and divides the depth; ValueError names what does."""
    fitting = [n for n in range(2, depth + 1, 2) if depth % n == 0]
    if num_segments not in fitting:
        raise UserError(
            f'num_segments={num_segments} does not fit a depth of {depth}: it must be '
            f'even and divide the depth, so one of {fitting}'
        )
    return num_segments


def check_same(given: EncoderArch | None, wanted: EncoderArch | None, who: str) -> None:
    """ValueError naming the first size in which a stored arch differs from a model's.

    Args:
        given: of the file; None skips the check.
        wanted: of the model; None skips the check.
        who: the model, for the message.
    """
    if given is None or wanted is None:
        return
    for key in _SIZES:
        left, right = getattr(given, key), getattr(wanted, key)
        if None not in (left, right) and left != right:
            raise CheckpointError(
                f'the checkpoint is of another arch: its {key} is {left}, and {right} in {who}'
            )


def _square(num_patches: int, patch: int) -> tuple[int, int] | None:
    side = math.isqrt(num_patches)
    return (side * patch, side * patch) if side * side == num_patches else None
