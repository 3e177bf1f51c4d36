"""From any known naming to ours, and from ours to the encoder alone, to MAE's model and to timm's.

The official encoder's names (of https://github.com/russellllaputa/MIRL) are MAE's and timm's too;
those of transformers become them first.
"""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE, POSITIONS, num_positions
from mirl_mm.models.segments import strip_wrappers

from .hub import HUB_MODELS, check_plain, is_hub

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
    ('reg_token', 'backbone.register_tokens'),
    ('register_tokens', 'backbone.register_tokens'),  # as DINOv2's authors write it
    ('norm_pre.{k}', 'backbone.pre_norm.{k}'),
    ('blocks.{i}.{encoder}.{k}', 'backbone.layers.{i}.{encoder}.{k}'),
    ('blocks.{i}.ls1.gamma', 'backbone.layers.{i}.attn.gamma1.weight'),
    ('blocks.{i}.ls2.gamma', 'backbone.layers.{i}.ffn.gamma2.weight'),
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
# MAE's own decoder, and mmpretrain's names of it.
_MAE = [
    ('mask_token', 'neck.mask_token'),
    ('decoder_pos_embed', 'neck.decoder_pos_embed'),
    ('decoder_embed.{k}', 'neck.decoder_embed.{k}'),
    ('decoder_blocks.{i}.{encoder}.{k}', 'neck.decoder_blocks.{i}.{encoder}.{k}'),
    ('decoder_norm.{k}', 'neck.ln1.{k}'),
    ('decoder_pred.{k}', 'neck.decoder_pred.{k}'),
]
# Names in files of transformers (in memory it has others), and MAE's. Its version 5 writes those of
# the last line for a decoder.
_HUB_BLOCK = {name: name for name in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2')}
_HUB_BLOCK |= dict(layernorm_before='norm1', layernorm_after='norm2')
_HUB_BLOCK |= {'attention.attention.qkv': 'attn.qkv', 'attention.output.dense': 'attn.proj'}
_HUB_BLOCK |= {'intermediate.dense': 'mlp.fc1', 'output.dense': 'mlp.fc2'}
_HUB = [
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.mask_token', 'mask_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('embeddings.register_tokens', 'reg_token'),
    ('embeddings.patch_embeddings.projection.{k}', 'patch_embed.proj.{k}'),
    ('encoder.layer.{i}.{block}.{k}', 'blocks.{i}.{block}.{k}'),
    ('encoder.layer.{i}.layer_scale{g}.lambda1', 'blocks.{i}.ls{g}.gamma'),
    ('layernorm.{k}', 'norm.{k}'),
    ('classifier.{k}', 'head.{k}'),
    ('decoder_layers.{i}.{block}.{k}', 'decoder_blocks.{i}.{block}.{k}'),
    ('decoder_encoder.layer.{i}.{block}.{k}', 'decoder_blocks.{i}.{block}.{k}'),
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
_mae_name = _renamer(_MAE, _PARTS)
_hub_name = _renamer(_HUB, dict(block=_HUB_BLOCK))
_BACK = {where: {ours: timm for timm, ours in names.items()} for where, names in _PARTS.items()}
_timm_name = _renamer([(ours, timm) for timm, ours in _ENCODER], _BACK)


def to_ours(state: dict[str, Tensor], positions: int = 0) -> tuple[dict[str, Tensor], list[str]]:
    """Any known naming to ours with full-model prefixes, and the names that have no place in it.

    Positions of patches alone (timm's ``no_embed_class``) get a place for the cls token, of zeros:
    those one short of ``positions``, or where that is not known or another, of a square number.
    MAE's decoder gets mmpretrain's names of it. UserError: no plain ViT, or one with parts that
    ours lacks (relative positions, SwiGLU, ...).
    """
    clean = strip_wrappers(state)
    if len(set(clean.values())) < len(clean):
        raise UserError('two names differ only in the prefixes of wrappers such as _orig_mod.')
    state = {clean[name]: tensor for name, tensor in state.items()}
    if any(name.startswith(BACKBONE + 'layers.') for name in state):
        return state, []
    if any(name.startswith('layers.') for name in state):
        return {BACKBONE + name: tensor for name, tensor in state.items()}, []
    # (the blocks of DINOv2's training stand in chunks)
    state = {re.sub(r'^blocks\.\d+\.(?=\d)', 'blocks.', name): x for name, x in state.items()}
    state = from_hub(state) if is_hub(state) else state
    check_plain(state)
    # (MAE's mask token is of its decoder; DINOv2's has no place)
    mae_name = _mae_name if 'decoder_embed.weight' in state else {}.get
    decoder = {mae_name(name): state.pop(name) for name in [*state] if mae_name(name)}
    # What else stands beside an encoder, which is whole without it.
    others = filter(re.compile(r'decoder_|mask_token$|head\.|pooler\.|classifier\.').match, state)
    unused = [name for name in others if _our_name(name) is None]
    state = convert_official({n: t for n, t in state.items() if n not in unused}) | decoder
    number = num_positions(state) if BACKBONE + 'cls_token' in state else 0
    square = math.isqrt(number) ** 2 == number
    if number not in (0, positions) and (square or number + 1 == positions):
        given = state[BACKBONE + POSITIONS]
        state[BACKBONE + POSITIONS] = torch.cat([torch.zeros_like(given[:, :1]), given], dim=1)
    return state, unused


def from_hub(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MAE's names for those in files of transformers, with query, key and value as one matrix."""
    clean = {re.sub(rf'^({HUB_MODELS}|decoder)\.', '', name): x for name, x in state.items()}
    for name in [name for name in clean if '.attention.query.' in name]:
        three = [name.replace('query', each) for each in ('query', 'key', 'value')]
        if missing := [each for each in three if each not in clean]:
            raise UserError(f'it has {name!r}, and not {missing[0]!r}')
        clean[name.replace('query', 'qkv')] = torch.cat([clean.pop(each) for each in three])
    head, width = clean.get('classifier.weight'), len(clean.get('layernorm.weight', ()))
    if head is not None and not head[:, width:].any():  # as hub_folder writes one of cls
        clean['classifier.weight'] = head = head[:, :width]
    # DINOv2's is of cls beside the mean of the patches, so it stays under its name.
    other = r'classifier\.' if head is not None and head.shape[-1] != width else '$'
    return {n if re.match(other, n) else _hub_name(n) or n: x for n, x in clean.items()}


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


def to_mae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder and, if there is one, the classifier under the names of MAE and timm.

    ``ln1`` becomes ``norm`` (behind the last block), ``ln2`` ``fc_norm`` (behind the pooling).
    UserError where a ViT of those names cannot compute what this encoder computes.
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


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As :func:`to_mae` for timm's ViT: ``global_pool='token'``, or ``'avg'`` for ``fc_norm``.

    With registers, its positions are those of patches (``no_embed_class``), so that of the cls
    token is added to the token.
    """
    converted = to_mae(state)
    if 'reg_token' in converted:
        cls, converted['pos_embed'] = converted['pos_embed'].tensor_split([1], dim=1)
        converted['cls_token'] = converted['cls_token'] + cls
    return converted


def to_hub(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """MAE's names to those in files of transformers' ``model``; UserError for one without a place.

    Models: vit, beit, dinov2, dinov2_with_registers; those with a classifier begin with it.
    """
    blocks = {mae: hub for hub, mae in _HUB_BLOCK.items()}  # the last of two: BEiT's and ViT's
    blocks |= {mae: mae for mae in blocks if mae in _HUB_BLOCK and 'dinov2' in model}
    pairs = [('blocks.{i}.ls{g}.gamma', 'encoder.layer.{i}.lambda_{g}')] * (model == 'beit')
    pairs += [(mae, hub) for hub, mae in _HUB] + [('fc_norm.{k}', 'pooler.layernorm.{k}')]
    name_of, converted = _renamer(pairs, dict(block=blocks)), {}
    start = f'{model}.' if 'head.weight' in state else ''
    for name, tensor in state.items():
        if (hub := name_of(name)) is None:
            raise UserError(f"transformers' {model} has no place for {name!r}; --to timm has")
        parts = ('query', 'key', 'value') if '.qkv.' in hub else ('',)
        for part, x in zip(parts, tensor.chunk(len(parts)), strict=True):
            if model == 'beit' and part == 'key' and name.endswith('bias'):
                continue  # the same for all keys, which softmax does not see
            converted[(start if hub[:10] != 'classifier' else '') + hub.replace('qkv', part)] = x
    return converted
