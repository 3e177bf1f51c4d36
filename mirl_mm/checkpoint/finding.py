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
    weights = tensors(content)
    clean = strip_wrappers(weights)
    starts = {found[1] for short in clean.values() if (found := _PROBE.fullmatch(short))}
    for start in {''} & starts or sorted(starts):
        inside = {name: short for name, short in clean.items() if short.startswith(start)}
        # (a decoder, which has blocks too, has no patches)
        patches = re.compile(rf'{re.escape(start)}(backbone\.)?patch_embed\.')
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
            value = torch.from_numpy(value.copy())
        if isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value.detach().to_dense()
    return found
