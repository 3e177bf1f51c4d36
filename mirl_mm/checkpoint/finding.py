"""Where in a file the weights of a ViT are: by their structure, and not by a list of keys."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirl_mm.errors import CheckpointError
from mirl_mm.models.segments import strip_wrappers

EMA_KEY = 'ema_state_dict'  # MMEngine's raw weights; the averaged ones are its state_dict
# The first block's qkv in our names or in timm's, behind whatever prefix.
_PROBE = re.compile(r'((?:.*?\.)??)(?:backbone\.layers|layers|blocks)\.0\.attn\.qkv\.weight')
_AVERAGED = r'(?<![a-z])(ema|avg|averag\w*|teacher|momentum|target|swa|shadow)(?![a-z])'
_RAW = r'(?<![a-z])(student|raw|online|query|current)(?![a-z])'


class Found(NamedTuple):
    """Weights in a file."""

    place: str  # keys of the dicts around them and the prefix of their names: teacher/backbone.
    state: dict[str, Tensor]  # without the prefix
    others: Sequence[str] = ()  # names in the same dict that do not share the prefix
    weights: str = 'plain'  # or averaged or raw


def find_weights(content: dict, keys: tuple[str, ...] = ()) -> Iterator[Found]:
    """Every whole ViT in dicts inside of dicts, each with all that shares its prefix."""
    clean = strip_wrappers(name for name in content if isinstance(name, str))
    found = {m[1]: name for name, short in clean.items() if (m := _PROBE.fullmatch(short))}
    for start, probe in [('', found[''])] if '' in found else found.items():
        inside = {name: short for name, short in clean.items() if short.startswith(start)}
        # (a decoder, which has blocks too, has no patches)
        patches = re.compile(rf'{re.escape(start)}(backbone\.)?patch_embed\.')
        whole = any(map(patches.match, inside.values()))
        if whole and getattr(as_tensor(content[probe]), 'ndim', 0) == 2:
            short = {(inside[n].removeprefix(start) if start else n): content[n] for n in inside}
            others = [name for name in clean if name not in inside]
            yield Found('/'.join((*keys, start)), tensors(short), others)
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
    found = {name: as_tensor(value) for name, value in content.items() if isinstance(name, str)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def as_tensor(value: object) -> Tensor | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle: (variable name, array)
        value = value[1]
    if isinstance(value, np.ndarray) and value.dtype.kind in 'fiub':
        return torch.from_numpy(value.copy())
    return value.detach().to_dense() if isinstance(value, Tensor) else None
