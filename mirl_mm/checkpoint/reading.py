"""Checkpoint files of any form to tensors, under the names in the file."""

import argparse
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirl_mm.errors import CheckpointError
from mirl_mm.models.segments import strip_wrappers

from .safety import BROKEN, CORES, file_kind, in_words, multiarray, safely

_CLASSES = (tuple, OrderedDict, argparse.Namespace, np.ndarray, np.dtype)
PADDLE_GLOBALS = {f'{kind.__module__}.{kind.__name__}': kind for kind in _CLASSES}
for core in CORES:
    PADDLE_GLOBALS[f'numpy.{core}.multiarray._reconstruct'] = multiarray._reconstruct
EMA_KEY = 'ema_state_dict'


class CheckpointFile(NamedTuple):
    """What a file holds."""

    state: dict[str, Tensor]  # the weights, under the names in the file
    form: str  # paddle-mirl, mae (also the authors' conversion and timm) or mirl_mm (mmpretrain)
    layout: str  # paddle: matrices are [in, out]; torch: [out, in]
    weights: str  # averaged or raw, where the run had an EMAHook; else plain
    meta: dict  # MMEngine's: cfg (text), epoch, iter, ...; ours: arch
    beside: tuple[str, ...]  # other top-level entries, such as optimizer


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the model weights of a checkpoint file, under the names in the file.

    Knows official Paddle files, the MAE form (key ``model``), MMEngine's (key ``state_dict``), bare
    dicts of tensors and safetensors. Nothing in the file is executed. The second of the two has
    ``form`` and ``layout``, as :class:`CheckpointFile` has them.
    """
    file = open_checkpoint(path)
    return file.state, dict(form=file.form, layout=file.layout)


def open_checkpoint(path: str | Path, raw: bool = False) -> CheckpointFile:
    """As :func:`read_checkpoint`, with what else the file tells.

    ``raw`` takes the raw weights of a run with an EMAHook: MMEngine stores the averaged ones as
    ``state_dict`` and the raw ones as ``ema_state_dict``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    layout = 'paddle' if file_kind(path) == 'paddle' else 'torch'
    content = _read_paddle(path) if layout == 'paddle' else _read_torch(str(path))
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, not a dict of weights')
    dicts = [key for key, value in content.items() if isinstance(value, dict)]
    keys = f'its keys are {sorted(map(str, content))[:8]}'
    if raw and EMA_KEY not in dicts:
        raise CheckpointError(f'{path} has no raw weights beside averaged ones ({EMA_KEY}); {keys}')
    known = (EMA_KEY,) if raw else ('model', 'state_dict')
    key = next((key for key in known if key in dicts), None)
    # (beside the raw weights stands the number of steps, which is no weight)
    start, entries = 'module.' if raw else '', (content[key] if key else content).items()
    found = {n: _as_tensor(x) for n, x in entries if isinstance(n, str) and n.startswith(start)}
    state = {name: tensor for name, tensor in found.items() if tensor is not None}
    if not state:
        raise CheckpointError(f'{path} holds no tensors; {keys}')
    ours = any(name.startswith(('backbone.', 'layers.')) for name in strip_wrappers(state).values())
    form = 'paddle-mirl' if layout == 'paddle' else 'mirl_mm' if ours else 'mae'
    weights = 'raw' if raw else 'averaged' if EMA_KEY in dicts else 'plain'
    meta = content['meta'] if 'meta' in dicts else {}
    beside = tuple(str(other) for other in content if key and other not in (key, 'meta'))
    return CheckpointFile(state, form, layout, weights, meta, beside)


class _PaddleUnpickler(pickle.Unpickler):
    """Unpickles what ``paddle.save`` wrote for MIRL and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (wanted := f'{module}.{name}') not in PADDLE_GLOBALS:
            raise CheckpointError(f'it asks for {wanted}; accepted: {", ".join(PADDLE_GLOBALS)}')
        return PADDLE_GLOBALS[wanted]


def _read_paddle(path: Path) -> object:
    try:
        with path.open('rb') as file:
            return _PaddleUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f'{path} was refused: {error}') from error
    except (pickle.UnpicklingError, *BROKEN) as error:
        raise CheckpointError(f'{path} is cut short or not a Paddle file ({error})') from error


_read_torch = safely(in_words(partial(torch.load, map_location='cpu')))


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle: (variable name, array)
        value = value[1]
    if isinstance(value, np.ndarray) and value.dtype.kind in 'fiub':
        return torch.from_numpy(value.copy())
    return value.detach() if isinstance(value, Tensor) else None
