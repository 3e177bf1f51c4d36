"""The names and layout of the official MIRL, and ours for them.

The encoder's are those of MAE and timm too. Reference: models_mirl.py and models_vit.py of
https://github.com/russellllaputa/MIRL (names alone).
"""

import re
from collections.abc import Callable

from torch import Tensor

from mirl_mm.errors import UserError

# Inside blocks, our names follow mmpretrain (encoder) and mirl_mm.models.decoder.
ENCODER_BLOCK = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
DECODER_BLOCK = {
    'norm1': 'ln_self',
    'norm2': 'ln_query',
    'norm3': 'ln_context',
    'norm4': 'ln_mlp',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'cross_attn.q': 'cross_attn.q',
    'cross_attn.kv': 'cross_attn.kv',
    'cross_attn.proj': 'cross_attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
PROBE = 'blocks.0.attn.qkv.weight'  # [in, 3 x in] in Paddle, [3 x in, in] in torch
_PRED = 'neck.decoders.{0}.pred.'
# Official name -> ours, tried in this order. A rule with None drops the tensor: decoder positions
# are computed.
_RULES: list[tuple[str, str | Callable | None]] = [
    (r'(cls_token|pos_embed)', 'backbone.{0}'),
    (r'patch_embed\.proj\.(weight|bias)', 'backbone.patch_embed.projection.{0}'),
    (
        r'blocks\.(\d+)\.(\w+(?:\.\w+)?)\.(weight|bias)',
        lambda i, part, kind: f'backbone.layers.{i}.{ENCODER_BLOCK[part]}.{kind}',
    ),
    (r'norm\.(weight|bias)', 'backbone.ln1.{0}'),
    (r'fc_norm\.(weight|bias)', 'backbone.ln2.{0}'),
    (r'head\.(weight|bias)', 'head.fc.{0}'),
    (r'norm_low\.(weight|bias)', 'neck.stem_norm.{0}'),
    (r'norm(\d+)\.(weight|bias)', 'neck.norms.{0}.{1}'),
    (r'decoder_embed0_1\.(weight|bias)', 'neck.stem_embed.{0}'),
    (r'decoder_embed(\d+)\.(weight|bias)', 'neck.decoders.{0}.embed.{1}'),
    (r'mask_token(\d+)', 'neck.decoders.{0}.mask_token'),
    (
        r'decoder_blocks(\d+)\.(\d+)\.(\w+(?:\.\w+)?)\.(weight|bias)',
        lambda g, i, part, kind: f'neck.decoders.{g}.blocks.{i}.{DECODER_BLOCK[part]}.{kind}',
    ),
    (r'decoder_norm(\d+)\.(weight|bias)', 'neck.decoders.{0}.norm.{1}'),
    (r'decoder_pred(\d+)\.bias', _PRED + 'bias'),
    (r'decoder_pred(\d+)\.weight_g', _PRED + 'parametrizations.weight.original0'),
    (r'decoder_pred(\d+)\.weight_v', _PRED + 'parametrizations.weight.original1'),
    (r'decoder_pos_embed\d*', None),
]


def our_name(name: str) -> str | None:
    """Our name for an official one, None for a table that we compute; ValueError if unknown."""
    for pattern, target in _RULES:
        if found := re.fullmatch(pattern, name):
            try:
                return (
                    target(*found.groups())
                    if callable(target)
                    else target and target.format(*found.groups())
                )
            except KeyError:
                break  # an unknown part of a block
    raise UserError(
        f'{name!r} is not a name of the official MIRL; known are names such as '
        'blocks.0.attn.qkv.weight, decoder_embed0.bias, decoder_pred0.weight_v'
    )


def convert_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names and layout to ours, with ``backbone.``, ``neck.`` and ``head.`` prefixes.

    Whether matrices are [in, out] (Paddle) or [out, in] (torch) is read off
    ``blocks.0.attn.qkv.weight`` for the whole dict. Every tensor is only renamed, transposed or
    reshaped, so dtypes stay and gradients flow. Positions may be absent; those of the decoders are
    dropped (ours are computed).

    Raises:
        ValueError: a name the official code does not have, or no qkv weight to tell the layout.
    """
    if PROBE not in state:
        raise UserError(
            f'not an official MIRL state: {PROBE!r} is missing; it has '
            f'{len(state)} names such as {list(state)[:3]}'
        )
    rows, cols = state[PROBE].shape
    paddle = cols == 3 * rows
    converted = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours is None:
            continue
        if name.endswith('.weight_g'):
            tensor = tensor.reshape(1, -1)
        elif paddle and tensor.ndim == 2:
            tensor = tensor.t()
        converted[ours] = tensor
    return converted
