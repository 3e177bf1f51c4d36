"""Weights as folders that timm and transformers load: config.json, and a card."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from mirl_mm.errors import UserError, visible
from mirl_mm.files import check_folder, is_like, read_json
from mirl_mm.models.archs import EncoderArch

from .config_text import read_config
from .hub import FIELDS
from .names import to_hub

FILES = ('.pth', '.safetensors')  # endings of a destination of timm's that is a file
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ROWS = ('data', 'epochs', 'results', 'command', 'versions')  # of a card, told or not
# What Markdown reads as markup; a _ inside a word is none.
MARKS = re.compile(r'[&<>\[\]`|\\*~]|(?<![^\W_])_|_(?![^\W_])')
CARD = """---
library_name: {library}
license: {licence}
tags: [{library}, vit, mirl_mm]
---

# {name}

A Vision Transformer: {arch}.
Values of its images, from 0 to 1, are normalised by the mean {mean} and std {std} ({origin}).

    import {library}
    model = {call}

| training | |
|---|---|
{rows}

Written by mirl_mm {mirl_mm_version} from {source}.
"""


def wants_folder(path: Path, to: str) -> bool:
    """Whether a target is a folder there; UserError or OSError where that cannot be written."""
    if to not in ('timm', 'hf') or (to == 'timm' and path.suffix in FILES):
        return False
    fault = 'ends as a file does' if path.suffix in FILES else ''
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        fault = 'is a folder with something in it' if path.is_dir() else 'is a file'
    if fault:
        file = f', or a file in {" or ".join(FILES)}' if to == 'timm' else ''
        raise UserError(f'{path} {fault}; accepted for {to} is a new or empty folder{file}')
    check_folder(path.absolute().parent, 'destination')
    return True


def pixels_of(text: str, folder: Path, channels: int) -> tuple[Sequence, Sequence, str]:
    """Mean, std and their origin: a config's text, hub files in a folder, or ImageNet's."""
    told: list[tuple[str, Mapping, float]] = []
    with suppress(SyntaxError):
        config = read_config(text, {'model', 'data_preprocessor'})
        found = {name.rpartition('data_preprocessor.')[2]: x for name, x in config.items()}
        told.append(("the config's", found, 255))
    for name in ('preprocessor_config.json', 'config.json'):
        found = read_json(folder / name)
        found = inner if isinstance(inner := found.get('pretrained_cfg'), dict) else found
        told.append((f'of {name}', {n.removeprefix('image_'): x for n, x in found.items()}, 1))
    for origin, found, unit in told:
        both = [found.get('mean'), found.get('std')]
        if is_like(both, [[int | float]]) and all(len(x) in (1, channels) for x in both):
            both = (x * channels if len(x) == 1 else x for x in both)
            return *([round(value / unit, 6) for value in x] for x in both), origin
    mean, std = IMAGENET if channels == 3 else ([0.0] * channels, [1.0] * channels)
    return mean, std, f"{'ImageNet' if channels == 3 else 'nobody'}'s, as the source tells none"


def timm_arguments(arch: EncoderArch, state: Mapping[str, Tensor]) -> tuple[str, dict[str, object]]:
    """Architecture and arguments of ``timm.create_model`` for weights under timm's names."""
    hidden, width = arch.feedforward_channels, arch.embed_dims
    arguments = {timm: getattr(arch, field) for field, (_, timm) in FIELDS.items() if timm}
    arguments['mlp_ratio'] = (hidden + 0.5 * bool(hidden % width)) / width  # timm rounds down
    arguments['num_classes'] = len(state.get('head.weight', ()))
    arguments['global_pool'] = 'avg' if 'fc_norm.weight' in state else 'token'
    if arguments['reg_tokens']:
        arguments['no_embed_class'] = True  # see to_timm
    if arch.layer_scale:
        arguments['init_values'] = 1e-5
    arguments['pre_norm'] = 'norm_pre.weight' in state
    clip = 'clip_' if arch.norm_eps == 1e-5 else ''  # in timm, of CLIP's norms; others have 1e-6
    return f'vit_base_patch16_{clip}224', arguments


def timm_folder(facts: Mapping, state: dict[str, Tensor]) -> tuple[dict, dict, str]:
    """JSON files, weights and the call that loads them, for weights under timm's names."""
    architecture, arguments = timm_arguments(arch := facts['arch'], state)
    settings = {key: facts[key] for key in ('mean', 'std')} | dict(license=facts['licence'])
    settings |= dict(input_size=[arch.in_channels, *arch.img_size], fixed_input_size=True)
    settings |= dict(first_conv='patch_embed.proj', classifier='head', tag='mirl_mm')
    config = {key: arguments[key] for key in ('num_classes', 'global_pool')}
    config |= dict(architecture=architecture, model_args=arguments, pretrained_cfg=settings)
    config |= dict(num_features=arch.embed_dims, tags=['timm', 'vit', 'mirl_mm'])
    config['label_names'] = facts['classes'] or None
    return {'config.json': config}, state, "timm.create_model('local-dir:{}', pretrained=True)"


def hub_folder(facts: Mapping, state: dict[str, Tensor]) -> tuple[dict, dict, str]:
    """The same for MAE's names and a model of transformers that computes the same, or UserError.

    BEiT without its relative positions is a ViT whose classifier takes a norm of the patches' mean;
    DINOv2 has layer scale and registers, and a classifier of cls beside the mean of the patches.
    """
    arch, number, pooled = facts['arch'], facts['number'], 'fc_norm.weight' in state
    kind = 'Dinov2' if arch.layer_scale or arch.num_registers else 'ViT'
    kind, why = 'Beit' if pooled else f'{kind}{"WithRegisters" * bool(arch.num_registers)}', ''
    if pooled and arch.num_registers:
        why = 'registers beside a norm behind the mean of the patches'
    elif kind != 'ViT' and arch.img_size[0] != arch.img_size[1]:
        why = f'positions of a rectangle in {kind}'
    elif 'Dino' in kind and arch.feedforward_channels % arch.embed_dims:
        why = f'MLP of {arch.feedforward_channels} in {kind}, but multiples of {arch.embed_dims}'
    if why:
        raise UserError(f'transformers has no {why}; --to timm takes it')
    if 'Dino' in kind:
        one = torch.ones_like(state['norm.weight'])
        scales = (f'blocks.{i}.ls{g}.gamma' for i in range(arch.num_layers) for g in (1, 2))
        state = {n: one.clone() for n in scales} | state | {'mask_token': 0 * one[None]}
        if number:
            state['head.weight'] = torch.cat([head := state['head.weight'], 0 * head], dim=1)
    model = kind.lower().replace('with', '_with_')
    config = {hub: x for field, (hub, _) in FIELDS.items() if (x := getattr(arch, field))}
    name = f'{kind}{"ForImageClassification" if number else "Model"}'
    config |= dict(architectures=[name], model_type=model, hidden_act='gelu', qkv_bias=True)
    config.setdefault('layer_norm_eps', 1e-6)  # mmpretrain's
    if 'Dino' in kind:
        config['mlp_ratio'] = arch.feedforward_channels // arch.embed_dims
    elif pooled:
        config |= dict(use_absolute_position_embeddings=True, use_mean_pooling=True)
        config['layer_scale_init_value'] = 1e-5 * arch.layer_scale
    names = dict(enumerate(facts['classes'] or [f'LABEL_{i}' for i in range(number)]))
    config |= dict(id2label=names, label2id={n: i for i, n in names.items()}) if number else {}
    size = dict(zip(('height', 'width'), arch.img_size, strict=True))
    reading = dict(image_processor_type='ViTImageProcessor', size=size, resample=3)  # bicubic
    reading |= dict(image_mean=facts['mean'], image_std=facts['std'])
    auto = 'AutoModelForImageClassification' if number else 'AutoModel'
    call = f"transformers.{auto}.from_pretrained('{{}}'"
    call += ', add_pooling_layer=False)' if name == 'ViTModel' else ')'
    files = {'config.json': config, 'preprocessor_config.json': reading}
    return files, to_hub(state, model), call


def plain(text: str) -> str:
    """A line of Markdown that is shown as this text, whatever is in it."""
    return MARKS.sub(lambda found: f'&#{ord(found[0])};', visible(text).replace('\n', ' '))


def card(call: str, facts: Mapping) -> str:
    """A README.md as hubs show it: what the model is, how to load it, what its run recorded."""
    told = {key: plain(value.replace('|', '/')) for key, value in facts['rows'].items()}
    told = dict.fromkeys(ROWS, 'not recorded') | told
    texts = dict(name=call.split("'")[1].split(':')[-1], library=call.split('.')[0], call=call)
    texts['rows'] = '\n'.join(f'| {key} | {value} |' for key, value in told.items())
    texts['source'] = plain(facts['source'])
    return CARD.format(**(facts | texts))
