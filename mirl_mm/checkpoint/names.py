"""From any known naming to ours, and from ours to the encoder alone and to timm's."""

import re

from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE
from mirl_mm.models.segments import strip_wrappers

from .official import ENCODER_BLOCK, PROBE, convert_official, our_name

# MAE's decoder and its linear probe's head: not ours, and the encoder is whole without them.
_BESIDE_THE_ENCODER = re.compile(r'decoder_|mask_token$|head\.')
_TIMM_BLOCK = {ours: timm for timm, ours in ENCODER_BLOCK.items()}
_TIMM_RULES = [
    (r'backbone\.(cls_token|pos_embed)', r'\1'),
    (r'backbone\.patch_embed\.projection\.(weight|bias)', r'patch_embed.proj.\1'),
    (r'backbone\.ln1\.(weight|bias)', r'norm.\1'),
    (r'backbone\.ln2\.(weight|bias)', r'fc_norm.\1'),
    (r'head\.(?:fc|layers\.head)\.(weight|bias)', r'head.\1'),
]
_BLOCK = re.compile(r'backbone\.layers\.(\d+)\.(.+)\.(weight|bias)')


def to_ours(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names of the official MIRL, MAE, timm, mmpretrain or ours to ours with full-model prefixes.

    Returns:
        The tensors as the model has them, and the given names that it has no place for.

    Raises:
        ValueError: not a plain ViT, or one with parts that change what it computes and that ours
            lacks (layer scale, register tokens, ...).
    """
    clean = strip_wrappers(state)
    if len(set(clean.values())) < len(clean):
        raise UserError('two names differ only in the prefixes of wrappers such as _orig_mod.')
    state = {clean[name]: tensor for name, tensor in state.items()}
    if any(name.startswith(BACKBONE + 'layers.') for name in state):
        return state, []
    if any(name.startswith('layers.') for name in state):
        return {BACKBONE + name: tensor for name, tensor in state.items()}, []
    if PROBE not in state:
        raise UserError(
            'not a plain ViT of a known naming: there is no backbone.layers.N.*, layers.N.* or '
            f'blocks.N.*; it has {len(state)} names such as {list(state)[:3]}'
        )
    unused = [name for name in state if not _has_a_place(name)]
    converted = convert_official({n: tensor for n, tensor in state.items() if n not in unused})
    return converted, unused


def _has_a_place(name: str) -> bool:
    try:
        return our_name(name) is not None
    except ValueError:
        if _BESIDE_THE_ENCODER.match(name):
            return False
        raise


def backbone_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder alone, without prefix: loads in mmpretrain's stock VisionTransformer.

    Raises:
        ValueError: no name starts with ``backbone.``.
    """
    encoder = {
        name.removeprefix(BACKBONE): tensor
        for name, tensor in state.items()
        if name.startswith(BACKBONE)
    }
    if not encoder:
        raise UserError(f'no name starts with {BACKBONE!r}; the first names are {list(state)[:3]}')
    return encoder


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder and, if there is one, the classifier under the names of timm's ViT.

    ``ln1`` becomes ``norm`` (a pre-trained encoder: ``global_pool='token'``), ``ln2`` becomes
    ``fc_norm`` (fine-tuned with average pooling: ``global_pool='avg'``).

    Raises:
        ValueError: timm's ViT cannot compute what this encoder computes.
    """
    converted = {}
    for name, tensor in state.items():
        if timm := timm_name(name):
            converted[timm] = tensor
        elif name.startswith(BACKBONE):
            raise UserError(f"timm's ViT has no place for {name!r}")
    if 'norm.weight' in converted and 'fc_norm.weight' in converted:
        raise UserError(
            "this encoder norms before and after pooling (ln1 and ln2); timm's ViT does only one"
        )
    return converted


def timm_name(name: str) -> str | None:
    """timm's name for one of ours, or None."""
    if found := _BLOCK.fullmatch(name):
        index, part, kind = found.groups()
        return f'blocks.{index}.{_TIMM_BLOCK[part]}.{kind}' if part in _TIMM_BLOCK else None
    for pattern, target in _TIMM_RULES:
        if found := re.fullmatch(pattern, name):
            return found.expand(target)
    return None
