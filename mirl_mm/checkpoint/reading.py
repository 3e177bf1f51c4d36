"""Checkpoint files of any form to tensors, under the names in the file."""

import argparse
import pickle
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirl_mm.errors import CheckpointError
from mirl_mm.models.segments import strip_wrappers

from .safety import BROKEN, in_words, is_paddle, multiarray, safely

PADDLE_GLOBALS = {
    ('builtins', 'tuple'): tuple,
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): argparse.Namespace,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): multiarray._reconstruct,  # of numpy 1
    ('numpy._core.multiarray', '_reconstruct'): multiarray._reconstruct,  # of numpy 2
}
EMA_KEY = 'ema_state_dict'


@dataclass
class CheckpointFile:
    """What a file holds."""

    state: dict[str, Tensor]  # the weights, under the names in the file
    form: str  # paddle-mirl, mae (also the authors' conversion and timm) or mirl_mm (mmpretrain)
    layout: str  # paddle: matrices are [in, out]; torch: [out, in]
    weights: str = 'plain'  # averaged or raw, where the run had an EMAHook
    meta: dict = field(default_factory=dict)  # MMEngine's: cfg (text), epoch, iter, ...; ours: arch
    beside: tuple[str, ...] = ()  # other top-level entries, such as optimizer


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the model weights of a checkpoint file, under the names in the file.

    Knows official Paddle files (``.pd``, ``.pdparams``), the MAE form (key ``model``), MMEngine's
    (key ``state_dict``), bare dicts of tensors and safetensors. Nothing in the file is executed.
    The second of the two has ``form`` and ``layout``, as :class:`CheckpointFile` has them.
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
    paddle = is_paddle(path)
    content = _read_paddle(path) if paddle else _read_torch(str(path))
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, not a dict of weights')
    key = next((key for key in ('model', 'state_dict') if isinstance(content.get(key), dict)), None)
    averaged = isinstance(content.get(EMA_KEY), dict)
    shown = sorted(map(str, content))[:8]
    if raw and not averaged:
        raise CheckpointError(
            f'{path} has no raw weights beside averaged ones ({EMA_KEY}); its keys are {shown}'
        )
    key = EMA_KEY if raw else key
    entries = (content[key] if key else content).items()
    found = {name: _as_tensor(value) for name, value in entries if isinstance(name, str)}
    state = {name: tensor for name, tensor in found.items() if tensor is not None}
    if raw:  # and the number of steps, which is no weight
        state = {name: tensor for name, tensor in state.items() if name.startswith('module.')}
    if not state:
        raise CheckpointError(f'{path} holds no tensors; its keys are {shown}')
    ours = any(name.startswith(('backbone.', 'layers.')) for name in strip_wrappers(state).values())
    form = 'paddle-mirl' if paddle else 'mirl_mm' if ours else 'mae'
    weights = 'raw' if raw else 'averaged' if averaged else 'plain'
    meta = content['meta'] if isinstance(content.get('meta'), dict) else {}
    beside = tuple(str(other) for other in content if key and other not in (key, 'meta'))
    return CheckpointFile(state, form, 'paddle' if paddle else 'torch', weights, meta, beside)


class _PaddleUnpickler(pickle.Unpickler):
    """Unpickles what ``paddle.save`` wrote for MIRL and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in PADDLE_GLOBALS:
            known = ', '.join('.'.join(pair) for pair in PADDLE_GLOBALS)
            raise CheckpointError(f'it asks for {module}.{name}; accepted are only {known}')
        return PADDLE_GLOBALS[module, name]


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
