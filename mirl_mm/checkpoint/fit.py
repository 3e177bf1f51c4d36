"""What of a checkpoint fits where: matched, unused, missing, and no other arch."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmpretrain.models import VisionTransformer
from torch import Size, Tensor

from mirl_mm.errors import CheckpointError
from mirl_mm.models.neck import MIRLNeck

from .arch import EncoderArch
from .names import BACKBONE

Shapes = dict[str, Size]
_VIT = (BACKBONE + 'layers.', BACKBONE + 'patch_embed.')


@dataclass
class Fit:
    """Names by what became of them."""

    matched: list[str]
    unused: list[str]  # in the file alone
    missing: list[str]  # in the model alone
    resized: list[str]  # positions of another grid, among the matched; resized when loaded


def compare(given: Shapes, wanted: Shapes, who: str) -> Fit:
    """Hold a checkpoint's shapes against a model's.

    Raises:
        ValueError: another shape (the first one is named; positions may differ in length), or a
            block of the encoder too many or too few.
    """
    fit = Fit([], [name for name in given if name not in wanted], [], [])
    other = 'the checkpoint is of another arch'
    for name, shape in wanted.items():
        if name not in given:
            fit.missing.append(name)
            continue
        if given[name] != shape:
            if not _positions_of_other_grid(name, given[name], shape):
                raise CheckpointError(
                    f'{other}: {name!r} is {tuple(given[name])} there and {tuple(shape)} in {who}'
                )
            fit.resized.append(name)
        fit.matched.append(name)
    if not fit.matched:
        raise CheckpointError(
            f'the checkpoint has no weight of {who}: its names are {summary([*given])}'
        )
    if lacking := next((name for name in fit.missing if _of_every_vit(name)), None):
        raise CheckpointError(f'{other}: it lacks {lacking!r}, which {who} has')
    if surplus := next((name for name in fit.unused if _of_every_vit(name)), None):
        raise CheckpointError(f'{other}: it has {surplus!r}, which {who} lacks')
    return fit


def _of_every_vit(name: str) -> bool:
    """Blocks and patch projection; dense variants add relative positions of their own."""
    return name.startswith(_VIT) and 'rel_pos' not in name


def _positions_of_other_grid(name: str, given: Size, wanted: Size) -> bool:
    return (
        name.endswith('pos_embed')
        and len(given) == len(wanted) == 3
        and (given[0], given[2]) == (wanted[0], wanted[2])
    )


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape."""
    return {name: tensor.shape for name, tensor in state.items()}


def expected_shapes(state: Mapping[str, Tensor], arch: EncoderArch) -> Shapes:
    """Shapes of a model of this arch with the parts that the weights have (full-model names).

    Encoder, norms, decoders and classifier are those of the file; their sizes are the arch's. The
    models are built without memory.
    """
    with torch.device('meta'):
        encoder = VisionTransformer(
            arch=dict(
                embed_dims=arch.embed_dims,
                num_layers=arch.num_layers,
                num_heads=arch.num_heads or 1,
                feedforward_channels=arch.feedforward_channels,
            ),
            img_size=arch.img_size or 224,
            patch_size=arch.patch_size,
            in_channels=arch.in_channels,
            final_norm=BACKBONE + 'ln2.weight' not in state or BACKBONE + 'ln1.weight' in state,
            out_type='avg_featmap' if BACKBONE + 'ln2.weight' in state else 'cls_token',
        )
        wanted = {BACKBONE + name: t.shape for name, t in encoder.state_dict().items()}
        if neck := _neck_like(state, arch.embed_dims):
            wanted |= {f'neck.{name}': t.shape for name, t in neck.state_dict().items()}
    for head in ('head.fc', 'head.layers.head'):
        if f'{head}.weight' in state:
            classes = state[f'{head}.weight'].shape[0]
            wanted[f'{head}.weight'] = Size([classes, arch.embed_dims])
            wanted[f'{head}.bias'] = Size([classes])
    return wanted


def _neck_like(state: Mapping[str, Tensor], width: int) -> MIRLNeck | None:
    """MIRLNeck with the decoders that the weights have."""
    found = [re.match(r'neck\.decoders\.(\d+)\.(?:blocks\.(\d+)\.)?', name) for name in state]
    numbers = [match.groups() for match in found if match]
    needed = ('embed.weight', 'blocks.0.ffn.layers.0.0.weight', 'pred.bias')
    embed, hidden, values = (state.get(f'neck.decoders.0.{name}') for name in needed)
    if embed is None or values is None or hidden is None:
        return None
    return MIRLNeck(
        width,
        num_segments=1 + max(int(g) for g, _ in numbers),
        decoder_embed_dim=embed.shape[0],
        decoder_depth=1 + max(int(i) for _, i in numbers if i is not None),
        decoder_num_heads=1,
        mlp_ratio=(hidden.shape[0] + 0.5) / embed.shape[0],  # the neck rounds down
        patch_size=1,
        in_channels=values.shape[0],
    )


def summary(names: Sequence[str], limit: int = 6) -> str:
    """Names in one line: all of a few, numbered families of many."""
    if len(names) <= limit:
        return ', '.join(names) or 'none'
    families = Counter(re.sub(r'\d.*', '*', name) for name in names)
    return ', '.join(
        name if number == 1 else f'{name} ({number})' for name, number in families.items()
    )
