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

from .safetensors_file import is_safetensors, read_safetensors
from .safety import BROKEN, TORCH_STARTS, in_words, multiarray, safely

PADDLE_GLOBALS = {
    ('builtins', 'tuple'): tuple,
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): argparse.Namespace,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): multiarray._reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): multiarray._reconstruct,
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

    Returns:
        The tensors by name, and a dict with ``form`` (``paddle-mirl``, ``mae`` or ``mirl_mm``) and
        ``layout`` (``paddle`` for [in, out] matrices or ``torch``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, is cut short, or asks for anything but data.
    """
    file = open_checkpoint(path)
    return file.state, dict(form=file.form, layout=file.layout)


def open_checkpoint(path: str | Path, raw: bool = False) -> CheckpointFile:
    """As :func:`read_checkpoint`, with what else the file tells.

    Args:
        path: the file.
        raw: of a run with an EMAHook, take the raw weights. MMEngine stores the averaged ones as
            ``state_dict`` and the raw ones as ``ema_state_dict``.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; no raw weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    with path.open('rb') as file:
        head = file.read(9)
    paddle = False
    if is_safetensors(path):
        state, meta = read_safetensors(path)
        content = dict(state_dict=state, meta=meta)
    elif head.startswith(TORCH_STARTS):
        content = _read_torch(path)
    elif paddle := head[:1] == pickle.PROTO:
        content = _read_paddle(path)
    else:
        raise CheckpointError(
            f'{path} is not a checkpoint: it starts with {head!r}, which is neither a torch '
            'file nor a Paddle pickle nor safetensors'
        )
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, not a dict of weights')

    key = next((key for key in ('model', 'state_dict') if isinstance(content.get(key), dict)), None)
    averaged = isinstance(content.get(EMA_KEY), dict)
    if raw:
        if not averaged:
            raise CheckpointError(
                f'{path} has no raw weights beside averaged ones ({EMA_KEY}); '
                f'its keys are {_shown(content)}'
            )
        key = EMA_KEY
    state = _tensors(content[key] if key else content)
    if key == EMA_KEY:  # and the number of steps, which is no weight
        state = {name: tensor for name, tensor in state.items() if name.startswith('module.')}
    if not state:
        raise CheckpointError(f'{path} holds no tensors; its keys are {_shown(content)}')
    ours = any(name.startswith(('backbone.', 'layers.')) for name in strip_wrappers(state).values())
    meta = content.get('meta')
    return CheckpointFile(
        state,
        form='paddle-mirl' if paddle else 'mirl_mm' if ours else 'mae',
        layout='paddle' if paddle else 'torch',
        weights='raw' if raw else 'averaged' if averaged else 'plain',
        meta=meta if isinstance(meta, dict) else {},
        beside=tuple(str(other) for other in content if key and other not in (key, 'meta')),
    )


def _shown(content: dict) -> list[str]:
    return sorted(map(str, content))[:8]


def _read_torch(path: Path) -> object:
    return safely(in_words(partial(torch.load, map_location='cpu')))(str(path))


class _PaddleUnpickler(pickle.Unpickler):
    """Unpickles what ``paddle.save`` wrote for MIRL and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in PADDLE_GLOBALS:
            raise _Refused(f'it asks for {module}.{name}')
        return PADDLE_GLOBALS[module, name]


class _Refused(pickle.UnpicklingError):
    """The file asks for something that is not data."""


def _read_paddle(path: Path) -> object:
    try:
        with path.open('rb') as file:
            return _PaddleUnpickler(file).load()
    except _Refused as error:
        raise CheckpointError(
            f'{path} was refused: {error}; accepted are only '
            f'{", ".join(".".join(pair) for pair in PADDLE_GLOBALS)}'
        ) from error
    except (pickle.UnpicklingError, *BROKEN) as error:
        raise CheckpointError(f'{path} is cut short or not a Paddle file ({error})') from error


def _tensors(raw: dict) -> dict[str, Tensor]:
    found = ((name, _as_tensor(value)) for name, value in raw.items() if isinstance(name, str))
    return {name: tensor for name, tensor in found if tensor is not None}


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle: (variable name, array)
        value = value[1]
    if isinstance(value, np.ndarray) and value.dtype.kind in 'fiub':
        return torch.from_numpy(value.copy())
    return value.detach() if isinstance(value, Tensor) else None
