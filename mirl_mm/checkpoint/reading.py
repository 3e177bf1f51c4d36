"""Checkpoint files of any form to tensors, under the names in the file."""

import argparse
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirl_mm.errors import CheckpointError
from mirl_mm.models.fit import summary
from mirl_mm.models.segments import strip_wrappers

from .hub import HUB_PATCHES, HUB_PROBE, WEIGHTS, is_hub, told_by_config
from .safety import BROKEN, PLAIN, file_kind, in_words, safely

_CLASSES = (tuple, OrderedDict, argparse.Namespace)
PADDLE_GLOBALS = {f'{kind.__module__}.{kind.__name__}': kind for kind in _CLASSES}
FORMS = {
    'paddle-mirl': 'official MIRL',
    'mae': 'names of MAE or timm',
    'hf': 'names of transformers',
    'mirl_mm': 'names of mirl_mm or mmpretrain',
}
LARGEST = 2**31  # numbers in a tensor; a damaged or hostile file may say any
EMA_KEY = 'ema_state_dict'  # MMEngine's raw weights; the averaged ones are its state_dict
# The first block's qkv in our names or in timm's, or its query in transformers', behind a prefix.
_QKV = r'(?:backbone\.layers|layers|blocks|blocks\.0)\.0\.attn\.qkv'
_PROBE = re.compile(rf'((?:.*?\.)??)(?:{_QKV}|{HUB_PROBE})\.weight')
_AVERAGED = r'(?<![a-z])(ema|avg|averag\w*|teacher|momentum|target|swa|shadow)(?![a-z])'
_RAW = r'(?<![a-z])(student|raw|online|query|current)(?![a-z])'


class CheckpointFile(NamedTuple):
    """What a file holds."""

    state: dict[str, Tensor]  # the weights, under the names in the file
    form: str  # a key of FORMS; mae is also the authors' conversion and timm
    layout: str  # paddle: matrices are [in, out]; torch: [out, in]
    weights: str  # averaged or raw, where the file has or names both; else plain
    meta: dict  # MMEngine's: cfg (text), epoch, iter, ...; ours: arch
    beside: tuple[str, ...]  # other top-level entries, such as optimizer
    place: str = ''  # of the weights in the file: keys and the prefix of names, teacher/backbone.
    told: Mapping[str, object] = {}  # fields of an EncoderArch in the config.json beside it


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the model weights of a checkpoint file, under the names in the file.

    Knows official Paddle files, MMEngine's, bare dicts of tensors, safetensors, shards with an
    index, folders of transformers and timm, and dicts in dicts, in which a ViT is found by its
    structure: MAE's, timm's, DINO's and Lightning's. Nothing in the file is executed. The second
    has ``form`` and ``layout`` of a CheckpointFile.
    """
    file = open_checkpoint(path)
    return file.state, dict(form=file.form, layout=file.layout)


def open_checkpoint(path: str | Path, raw: bool = False) -> CheckpointFile:
    """As :func:`read_checkpoint`, with what else the file tells.

    Where averaged weights stand beside raw ones the averaged are taken, or with ``raw`` the others.
    A CheckpointError names the file, also where weights in it are NaN or infinite.
    """
    path = Path(path)
    path = next((path / name for name in WEIGHTS if (path / name).is_file()), path)
    if not path.is_file():
        none = f', a folder with none of {", ".join(WEIGHTS)}' if path.is_dir() else ''
        raise FileNotFoundError(f'no checkpoint at {path}{none}')
    paddle = file_kind(path) == 'paddle'
    content = _read_paddle(path) if paddle else _read_shards(path) or _read_torch(str(path))
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, not a dict of weights')
    keys = f'its keys are {sorted(map(str, content))[:8]}'
    found = choose([*find_weights(content)] or [*usual_weights(content)], content, raw, path)
    if raw and found.weights != 'raw':
        raise CheckpointError(f'{path} has no raw weights beside averaged ones ({EMA_KEY}); {keys}')
    if not found.state:
        raise CheckpointError(f'{path} holds no tensors; {keys}')
    check_finite(found.state, path)
    names = strip_wrappers(found.state).values()
    theirs = 'hf' if is_hub(names) else 'mae'
    ours = any(name.startswith(('backbone.', 'layers.')) for name in names)
    form = 'paddle-mirl' if paddle else 'mirl_mm' if ours else theirs
    told = told_by_config(path) if form == theirs else {}
    meta = content['meta'] if isinstance(content.get('meta'), dict) else {}
    if classes := told.pop('classes', None):
        meta = dict(dataset_meta=dict(classes=classes)) | meta
    found = without_head(found, told.pop('pool', None))
    key = found.place.rpartition('/')[0].split('/')[0]
    beside = tuple(str(other) for other in content if key and str(other) not in (key, 'meta'))
    beside += (summary(found.others),) if found.others else ()
    layout = 'paddle' if paddle else 'torch'
    return CheckpointFile(found.state, form, layout, found.weights, meta, beside, found.place, told)


def without_head(found: 'Found', pool: str | None) -> 'Found':
    """timm's weights, less a classifier of another pooling than of cls or of a normed mean."""
    ours = pool in ('token', 'avg') and (pool == 'avg') == ('fc_norm.weight' in found.state)
    if pool is None or ours or 'head.weight' not in found.state:
        return found
    kept = {n: x for n, x in found.state.items() if not n.startswith(('head.', 'fc_norm.'))}
    others = (*found.others, f'a classifier with global_pool={pool!r}, which ours has not')
    return found._replace(state=kept, others=others)


class Found(NamedTuple):
    """Weights in a file."""

    place: str  # keys of the dicts around them and the prefix of their names: teacher/backbone.
    state: dict[str, Tensor]  # without the prefix
    others: Sequence[str] = ()  # names in the same dict that do not share the prefix
    weights: str = 'plain'  # or averaged or raw


def find_weights(content: dict, keys: tuple[str, ...] = ()) -> Iterator[Found]:
    """Every whole ViT in dicts inside of dicts, each with all that shares its prefix."""
    weights = tensors(content)
    clean = strip_wrappers(weights)
    starts = {found[1] for short in clean.values() if (found := _PROBE.fullmatch(short))}
    for start in {''} & starts or sorted(starts):
        inside = {name: short for name, short in clean.items() if short.startswith(start)}
        # (a decoder, which has blocks too, has no patches)
        patches = re.compile(rf'{re.escape(start)}((backbone\.)?patch_embed|{HUB_PATCHES})\.')
        if any(map(patches.match, inside.values())):
            state = {inside[n].removeprefix(start) if start else n: weights[n] for n in inside}
            others = [name for name in clean if name not in inside]
            yield Found('/'.join((*keys, start)), state, others)
    for key, value in content.items():
        if isinstance(value, dict) and len(keys) < 4 and 'optim' not in str(key):
            yield from find_weights(value, (*keys, str(key)))


def usual_weights(content: dict) -> Iterator[Found]:
    """The weights of another model than a ViT, where they usually are."""
    key = next((k for k in ('model', 'state_dict') if isinstance(content.get(k), dict)), '')
    yield Found(f'{key}/', tensors(content[key] if key else content))
    if isinstance(raw := content.get(EMA_KEY), dict):  # and the number of steps
        yield Found(f'{EMA_KEY}/', tensors({n: x for n, x in raw.items() if n != 'steps'}))


def choose(found: list[Found], content: dict, raw: bool, path: str | Path) -> Found:
    """The averaged weights, or with ``raw`` the others; CheckpointError where that is not clear."""
    mmengines = isinstance(x := content.get(EMA_KEY), dict) and 'steps' in x

    def rank(place: str) -> int:
        if re.search(_RAW, place.lower()) or (mmengines and place.startswith(EMA_KEY)):
            return 0
        return 2 if mmengines or re.search(_AVERAGED, place.lower()) else 1

    ranks = [rank(each.place) for each in found]
    best = (min if raw else max)(ranks)
    if ranks.count(best) > 1:
        places = ', '.join(each.place for each in found)
        how = 'save the one you mean as a file of its own'
        raise CheckpointError(f'{path} holds {len(found)} sets of weights ({places}): {how}')
    unsaid = 'raw' if raw and found[1:] else 'averaged' if 0 in ranks else 'plain'
    return found[ranks.index(best)]._replace(weights=('raw', unsaid, 'averaged')[best])


def tensors(content: dict) -> dict[str, Tensor]:
    """What is a tensor, or a Paddle file's (variable name, array)."""
    found = {}
    for name, value in content.items():
        value = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if isinstance(value, np.ndarray) and value.dtype.kind in 'fiub':
            value = torch.from_numpy(value.copy() if value.size <= LARGEST else value)
        if isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value.detach()
            found[name] = found[name].to_dense() if value.numel() <= LARGEST else found[name]
    return found


def class_names(meta: Mapping | None) -> list[str]:
    """The names in a dataset's metainfo, or in a checkpoint's meta; empty where there are none."""
    meta = meta if isinstance(meta, Mapping) else {}
    meta = meta['dataset_meta'] if isinstance(meta.get('dataset_meta'), Mapping) else meta
    names = (meta[key] for key in ('classes', 'CLASSES') if isinstance(meta.get(key), Iterable))
    names = next(names, ())
    return [names] if isinstance(names, str) else [str(name) for name in names]


def check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    """CheckpointError for weights that are NaN, infinite, without values, or beyond any size."""
    whole = {n: x for n, x in state.items() if isinstance(x, Tensor)}
    if bad := [n for n, x in whole.items() if x.is_meta or x.is_nested or x.numel() > LARGEST]:
        what = f'nested, without values, or with more than {LARGEST:,}: {summary(bad, 3)}'
        raise CheckpointError(f'{path} cannot be used: it has tensors {what}')
    dense = {n: x for n, x in whole.items() if x.layout is torch.strided}
    floats = {n: x for n, x in dense.items() if x.is_floating_point() and x.numel()}
    wide = ((n, x.float() if x.itemsize == 1 else x) for n, x in floats.items())  # (of 8 bits)
    if bad := [n for n, x in wide if not torch.stack(x.aminmax()).isfinite().all()]:
        what = f'{len(bad)} of {len(floats)} tensors hold NaN or infinity: {summary(bad, 3)}'
        raise CheckpointError(f'{path} cannot be used: {what}')


def _read_shards(path: Path) -> dict | None:
    """All weights of a set of files, given its index or one of them; None for a file of its own."""
    if path.suffix != '.json':
        part = re.search(r'-0*(\d+)-of-0*(\d+)\.', path.name)
        if part is None or part[2] == '1':
            return None
        indices = sorted(path.parent.glob('*.index*.json'))
        if not (listing := [index for index in indices if path in _shards_of(index)]):
            alone = f'{path} is part {part[1]} of {part[2]}'
            raise CheckpointError(f'{alone}, and no *.index.json beside it lists the others')
        path = listing[0]
    state: dict = {}
    for shard in _shards_of(path):
        if not shard.is_file():
            raise FileNotFoundError(f'{path} lists {shard.name}, and there is no {shard}')
        content = _read_torch(str(shard))
        content = content.get('state_dict', content) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise CheckpointError(f'{shard} holds a {type(content).__name__}, not a dict')
        state |= content
    return {f'all parts of {path.name}': state}


def _shards_of(index: Path) -> list[Path]:
    """The files that an index lists; CheckpointError for another JSON file."""
    try:
        places = json.loads(index.read_text(encoding='utf-8-sig'))['weight_map'].values()
        return sorted({index.with_name(Path(name).name) for name in places})
    except BROKEN as error:
        reason = f'no index of shards, which has a weight_map ({type(error).__name__}: {error})'
        raise CheckpointError(f'{index} is {reason}') from error


class _PaddleUnpickler(pickle.Unpickler):
    """Unpickles what ``paddle.save`` wrote for MIRL and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (wanted := f'{module}.{name}') in PLAIN:
            return partial(PLAIN[wanted])  # (attributes could be put on the class itself)
        if wanted not in PADDLE_GLOBALS:
            accepted = ', '.join(PADDLE_GLOBALS | PLAIN)
            raise CheckpointError(f'it asks for {wanted}; accepted: {accepted}')
        return type(name, (PADDLE_GLOBALS[wanted],), {})  # (so could they here)


def _read_paddle(path: Path) -> object:
    try:
        with path.open('rb') as file:
            return _PaddleUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f'{path} was refused: {error}') from error
    except (pickle.UnpicklingError, *BROKEN) as error:
        raise CheckpointError(f'{path} is cut short or not a Paddle file ({error})') from error


_read_torch = safely(in_words(partial(torch.load, map_location='cpu')))
