"""From any known naming to ours, and from ours to the encoder alone and to timm's.

The official encoder's names (of https://github.com/russellllaputa/MIRL) are MAE's and timm's too.
"""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE, POSITIONS, num_positions
from mirl_mm.models.segments import strip_wrappers

# Inside blocks, our names follow mmpretrain (encoder) and mirl_mm.models.decoder.
_SAME = {name: name for name in ('attn.qkv', 'attn.proj')}
_SHARED = _SAME | {'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}
_CROSS = {f'cross_attn.{name}': f'cross_attn.{name}' for name in ('q', 'kv', 'proj')}
_NORMS = dict(norm1='ln_self', norm2='ln_query', norm3='ln_context', norm4='ln_mlp')
_PARTS = dict(encoder=dict(norm1='ln1', norm2='ln2') | _SHARED, decoder=_NORMS | _CROSS | _SHARED)
# Official name and ours. {i} and {g} are numbers, {k} is weight or bias, the others are above.
_ENCODER = [
    ('cls_token', 'backbone.cls_token'),
    ('pos_embed', 'backbone.pos_embed'),
    ('patch_embed.proj.{k}', 'backbone.patch_embed.projection.{k}'),
    ('blocks.{i}.{encoder}.{k}', 'backbone.layers.{i}.{encoder}.{k}'),
    ('norm.{k}', 'backbone.ln1.{k}'),
    ('fc_norm.{k}', 'backbone.ln2.{k}'),
    ('head.{k}', 'head.fc.{k}'),
]
_NECK = [
    ('norm_low.{k}', 'neck.stem_norm.{k}'),
    ('norm{g}.{k}', 'neck.norms.{g}.{k}'),
    ('decoder_embed0_1.{k}', 'neck.stem_embed.{k}'),
    ('decoder_embed{g}.{k}', 'neck.decoders.{g}.embed.{k}'),
    ('mask_token{g}', 'neck.decoders.{g}.mask_token'),
    ('decoder_blocks{g}.{i}.{decoder}.{k}', 'neck.decoders.{g}.blocks.{i}.{decoder}.{k}'),
    ('decoder_norm{g}.{k}', 'neck.decoders.{g}.norm.{k}'),
    ('decoder_pred{g}.bias', 'neck.decoders.{g}.pred.bias'),
    ('decoder_pred{g}.weight_g', 'neck.decoders.{g}.pred.parametrizations.weight.original0'),
    ('decoder_pred{g}.weight_v', 'neck.decoders.{g}.pred.parametrizations.weight.original1'),
]
PROBE = 'blocks.0.attn.qkv.weight'  # [in, 3 x in] in Paddle, [3 x in, in] in torch


def _renamer(pairs: list, parts: dict[str, dict]) -> Callable[[str], str | None]:
    """A function from names to names by pairs of templates; None where none fits."""
    choices = {where: '|'.join(map(re.escape, names)) for where, names in parts.items()}
    choices |= dict(i=r'\d+', g=r'\d+', k='weight|bias')
    groups = {key: f'(?P<{key}>{choice})' for key, choice in choices.items()}
    rules = [(source.replace('.', r'\.').format(**groups), target) for source, target in pairs]

    def renamed(name: str) -> str | None:
        for pattern, target in rules:
            if found := re.fullmatch(pattern, name):
                values = found.groupdict().items()
                return target.format(**{key: parts.get(key, {}).get(v, v) for key, v in values})
        return None

    return renamed


_our_name = _renamer(_ENCODER + _NECK, _PARTS)
_BACK = {where: {ours: timm for timm, ours in names.items()} for where, names in _PARTS.items()}
_timm_name = _renamer([(ours, timm) for timm, ours in _ENCODER], _BACK)


def to_ours(state: dict[str, Tensor], positions: int = 0) -> tuple[dict[str, Tensor], list[str]]:
    """Any known naming to ours with full-model prefixes, and the names that have no place in it.

    Positions of patches alone (timm's ``no_embed_class``) get a place for the cls token, of zeros:
    those one short of ``positions``, or where that is not known or another, of a square number.
    UserError: no plain ViT, or one with parts that ours lacks (layer scale, register tokens, ...).
    """
    clean = strip_wrappers(state)
    if len(set(clean.values())) < len(clean):
        raise UserError('two names differ only in the prefixes of wrappers such as _orig_mod.')
    state = {clean[name]: tensor for name, tensor in state.items()}
    if any(name.startswith(BACKBONE + 'layers.') for name in state):
        return state, []
    if any(name.startswith('layers.') for name in state):
        return {BACKBONE + name: tensor for name, tensor in state.items()}, []
    # MAE's decoder and its linear probe's head: not ours, and the encoder is whole without them.
    others = filter(re.compile(r'decoder_|mask_token$|head\.').match, state)
    unused = [name for name in others if _our_name(name) is None]
    state = convert_official({n: t for n, t in state.items() if n not in unused})
    number = num_positions(state) if BACKBONE + 'cls_token' in state else 0
    square = math.isqrt(number) ** 2 == number
    if number not in (0, positions) and (square or number + 1 == positions):
        given = state[BACKBONE + POSITIONS]
        state[BACKBONE + POSITIONS] = torch.cat([torch.zeros_like(given[:, :1]), given], dim=1)
    return state, unused


def convert_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names and layout to ours, with ``backbone.``, ``neck.`` and ``head.`` prefixes.

    The layout is read off ``blocks.0.attn.qkv.weight`` for the whole dict. Every tensor is only
    renamed, transposed or reshaped, so dtypes stay and gradients flow. Positions may be absent.
    """
    if PROBE not in state or state[PROBE].ndim != 2:
        given = f'it has {len(state)} names such as {list(state)[:3]}'
        missing = f'{PROBE!r} is missing, and so are our names'
        raise UserError(f'not a plain ViT of a known naming: {missing}; {given}')
    rows, cols = state[PROBE].shape
    paddle, converted = cols == 3 * rows, {}
    for name, tensor in state.items():
        if re.fullmatch(r'decoder_pos_embed\d*', name):
            continue  # we compute them
        if (ours := _our_name(name)) is None:
            known = f'{PROBE}, decoder_embed0.bias, decoder_pred0.weight_v'
            raise UserError(f'{name!r} is not a name of the official MIRL; known are {known}, ...')
        if name.endswith('.weight_g'):
            tensor = tensor.reshape(1, -1)
        elif paddle and tensor.ndim == 2:
            tensor = tensor.t()
        converted[ours] = tensor
    return converted


def backbone_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder alone, without prefix: loads in mmpretrain's stock VisionTransformer."""
    encoder = {n.removeprefix(BACKBONE): x for n, x in state.items() if n.startswith(BACKBONE)}
    if not encoder:
        raise UserError(f'no name starts with {BACKBONE!r}; the first names are {list(state)[:3]}')
    return encoder


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder and, if there is one, the classifier under the names of timm's ViT.

    ``ln1`` becomes ``norm`` (``global_pool='token'``), ``ln2`` ``fc_norm`` (fine-tuned: ``'avg'``).
    UserError where timm's ViT cannot compute what this encoder computes.
    """
    converted = {}
    for name, tensor in state.items():
        if timm := _timm_name(name.replace('head.layers.head.', 'head.fc.')):
            converted[timm] = tensor
        elif name.startswith(BACKBONE):
            raise UserError(f"timm's ViT has no place for {name!r}")
    if 'norm.weight' in converted and 'fc_norm.weight' in converted:
        raise UserError("norms before and after pooling (ln1 and ln2); timm's ViT does only one")
    return converted
