"""Weights of transformers and timm: what config.json tells, and what is no plain ViT as ours."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmengine.utils import to_2tuple
from torch import Tensor

from mirl_mm.errors import CheckpointError, UserError

HUB_MODELS = 'vit|dinov2|dinov2_with_registers'  # before the names of an encoder, or nothing
HUB_PROBE = rf'(?:(?:{HUB_MODELS})\.)?encoder\.layer\.0\.attention\.attention\.query'
HUB_PATCHES = rf'(?:(?:{HUB_MODELS})\.)?embeddings\.patch_embeddings'
# A folder's weights, in the order in which transformers looks for them.
_STEMS = ('model.safetensors', 'pytorch_model.bin')
WEIGHTS = [f'{stem}{end}' for stem in _STEMS for end in ('', '.index.json')]

_RELATIVE = 'relative positions (as in BEiT), and ours are added to the patches'
_ROTARY = 'rotary positions (as in DINOv3 and EVA), and ours are added to the patches'
_SWIGLU = 'SwiGLU in its blocks, and ours have an MLP with GELU'
_PARTS = {  # of names
    r'dist(illation)?_token$': 'a distillation token (as DeiT), and ours have none',
    r'(^|\.)attn_pool\.': 'attention pooling (as SigLIP), and ours take cls or a mean',
    r'(^|\.)[qk]_norm\.': 'norms of queries and keys, and ours have none',
    r'patch_embed\.backbone\.': 'a convolutional stem, and ours project patches',
    r'relative_position|rel_pos': _RELATIVE,
    r'(^|\.)rope|inv_freq|freqs_|^layer\.\d+\.attention\.q_proj': _ROTARY,
    r'\.gamma_[12]$': 'layer scale as in BEiT, EVA and DINOv3, whose positions are not ours',
    r'\.attention\.q_proj\.': 'names of transformers 5 in memory; save_pretrained writes others',
    r'mlp\.(w1|w2|w3|w12|weights_in|fc1_g|gate_proj)\.': _SWIGLU,
}
# Of a config's model_type or architecture.
_KINDS = {'beit|data2vec|relpos': _RELATIVE, 'dinov3|eva|rope': _ROTARY}
_KINDS['swin'] = 'windows that shift and maps that shrink'
_TIMM_HEADS = dict(tiny=3, small=6, medium=8, base=12, large=16, huge=16)
FIELDS = {  # of EncoderArch: in a config of transformers, and in timm's model_args
    'embed_dims': ('hidden_size', 'embed_dim'),
    'num_layers': ('num_hidden_layers', 'depth'),
    'num_heads': ('num_attention_heads', 'num_heads'),
    'feedforward_channels': ('intermediate_size', None),
    'patch_size': ('patch_size', 'patch_size'),
    'in_channels': ('num_channels', 'in_chans'),
    'img_size': ('image_size', 'img_size'),
    'num_registers': ('num_register_tokens', 'reg_tokens'),
    'norm_eps': ('layer_norm_eps', None),
}


def is_hub(names: Iterable[str]) -> bool:
    """Whether names are those in files of transformers."""
    return any(re.match(HUB_PROBE, name) for name in names)


def check_plain(state: Mapping[str, Tensor]) -> None:
    """UserError, with the reason, for a ViT that computes otherwise than ours, read off names."""
    for pattern, reason in _PARTS.items():
        if found := next((name for name in state if re.search(pattern, name)), None):
            raise UserError(f'it has {reason}: {found!r}')
    first, second = (getattr(state.get(f'blocks.0.mlp.fc{i}.weight'), 'shape', ()) for i in (1, 2))
    if len(first) == len(second) == 2 and first[0] == 2 * second[1]:  # timm's SwiGLUPacked
        raise UserError(f"it has {_SWIGLU}: 'blocks.0.mlp.fc1.weight' is {tuple(first)}")


def told_by_config(weights: Path) -> dict[str, object]:
    """The fields of an EncoderArch that the config.json beside weights tells; {} without one.

    Also ``classes``, where labels have names, and ``pool`` of timm's. Of transformers' or timm's;
    CheckpointError for a model that is no plain ViT as ours.
    """
    if not (path := weights.with_name('config.json')).is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} is no JSON ({error})') from error
    if not isinstance(config, dict) or not {'hidden_size', 'architecture'} & config.keys():
        return {}  # of something else
    timm, kind = 'architecture' in config, str(config.get('architecture', config.get('model_type')))
    source = config.get('model_args') or {} if timm else config
    labels = config.get('label_names' if timm else 'id2label') or []
    labels = [*labels.values()] if isinstance(labels, dict) else labels
    if not isinstance(source, dict) or not isinstance(labels, list):
        raise CheckpointError(f'{path} is damaged: arguments have to be a dict, and labels a list')
    activation = source.get('act_layer' if timm else 'hidden_act') or 'gelu'
    activation = 'quick_gelu' if 'quickgelu' in kind else str(activation).lower()
    reasons = [why for pattern, why in _KINDS.items() if re.search(pattern, kind)]
    reasons += [_SWIGLU] if config.get('use_swiglu_ffn') else []
    reasons += [f'the activation {activation}, and ours have gelu'] * (activation != 'gelu')
    if reasons:
        raise CheckpointError(f'{path}: {kind} has {reasons[0]}')
    names = {field: both[timm] for field, both in FIELDS.items()}
    told = {field: source[n] for field, n in names.items() if source.get(n) is not None}
    for field, value in told.items():
        check_number(value, field, f'{path}: {names[field] or field!r}')
    for field in {'img_size', 'patch_size'} & told.keys():
        told[field] = tuple(to_2tuple(told[field]))
    if len({*(sides := told.get('patch_size', ()))}) == 1:
        told['patch_size'] = sides[0]
    if timm:
        size = re.search(f'_({"|".join(_TIMM_HEADS)})_', kind)
        told.setdefault('num_heads', size and _TIMM_HEADS[size[1]])
        told['norm_eps'] = 1e-5 if 'clip' in kind else 1e-6
        told['pool'] = source.get('global_pool', config.get('global_pool'))
    if labels and not str(labels[0]).startswith('LABEL_'):  # transformers' placeholders
        told['classes'] = [*map(str, labels)]
    return told


def check_number(value: object, field: str, name: str) -> None:
    """CheckpointError for a value that no field of an EncoderArch has."""
    pair = field in ('img_size', 'patch_size') and isinstance(value, list) and len(value) == 2
    kind, accepted = (float, 'a number') if field == 'norm_eps' else (int, 'a whole number')
    accepted += ' above 0' + ' or two, [height, width]' * (field in ('img_size', 'patch_size'))
    for number in value if pair else [value]:
        if not isinstance(number, kind) or number < 0 or (not number and field != 'num_registers'):
            raise CheckpointError(f'{name} is {value!r}; accepted is {accepted}')
