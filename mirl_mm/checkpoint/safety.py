"""Files without their code: what may be unpickled, and MMEngine's loaders held to it."""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open

from mirl_mm.errors import CheckpointError

multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray  # numpy 2 or 1


def _history_buffer_attribute(obj: object, name: str) -> object:
    """Stands in for ``getattr``, which MMEngine's pickled log buffers ask for."""
    if obj is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(
            f'getattr({obj!r}, {name!r}) is refused; only the methods of HistoryBuffer are known'
        )
    return getattr(obj, name)


# What checkpoints hold beside tensors: the arguments of MAE's, and MMEngine's logs, under the names
# of numpy 1 and numpy 2.
SAFE_GLOBALS = [
    *(argparse.Namespace, HistoryBuffer, (_history_buffer_attribute, 'builtins.getattr')),
    *(np.ndarray, np.dtype, *{type(np.dtype(kind)): None for kind in 'bBhHiIlLqQefd?'}),
    *[
        (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ],
]

TORCH_STARTS = (b'PK', b'\x80\x02\x8a\nl\xfc\x9cF\xf9')  # a zip, or torch.save before torch 1.6
META_KEY = 'mirl_mm'  # of a safetensors header's metadata, where every value has to be a string
# What unpickling broken bytes may raise beside UnpicklingError.
BROKEN = (EOFError, IndexError, KeyError, AttributeError, TypeError, ValueError, MemoryError)
# RuntimeErrors of the machine, not of the file.
_MACHINE = re.compile('CUDA|out of memory|deserialize object on')
_SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_MMENGINES: dict[str, Callable] = {}  # its loaders by prefix, while ours stand in their place
_MMENGINES_LIST = 'get_torch_safe_globals'  # which the maintained MMEngine has


def make_loading_safe() -> None:
    """Wrap every loader that MMEngine knows (local, http, s3, ...) in :func:`safely`.

    The maintained MMEngine would allow the true ``getattr`` on top of :data:`SAFE_GLOBALS`, with
    which a file reaches and changes any module: its own list is emptied.
    """
    own_list = getattr(mmengine.runner.checkpoint, _MMENGINES_LIST, list)
    if own_list is not list:
        _MMENGINES[_MMENGINES_LIST] = own_list
        setattr(mmengine.runner.checkpoint, _MMENGINES_LIST, list)
    for prefix, loader in CheckpointLoader._schemes.items():
        if not getattr(loader, 'is_safe', False):
            _MMENGINES[prefix] = loader
            CheckpointLoader._schemes[prefix] = safely(loader if prefix else in_words(loader))


def restore_loading() -> None:
    """Give MMEngine its own loaders back, for the whole process.

    They run what code a file asks for, so load only files that you trust, and know no safetensors.
    This package's own reading stays safe; :func:`make_loading_safe` makes MMEngine's safe again.
    """
    if _MMENGINES_LIST in _MMENGINES:
        setattr(mmengine.runner.checkpoint, _MMENGINES_LIST, _MMENGINES.pop(_MMENGINES_LIST))
    CheckpointLoader._schemes.update(_MMENGINES)
    _MMENGINES.clear()


def safely(load: Callable) -> Callable:
    """Make a function that calls ``torch.load`` refuse everything but data.

    Data is what torch knows, :data:`SAFE_GLOBALS` and what the user has added by
    ``torch.serialization.add_safe_globals``.
    """

    @wraps(load)
    def safe_load(filename, *args, **kwargs):
        try:
            with _weights_only():
                return load(filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f'{filename} was refused: it asks for more than tensors and plain '
                f'data. {_asked_for(error)}'
            ) from error

    safe_load.is_safe = True
    return safe_load


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch's own switch: it holds even where a function asks for the unsafe mode after all.

    The user's own safe globals stay, also those that are among ours.
    """
    before, users = os.environ.get(_SWITCH), torch.serialization.get_safe_globals()
    os.environ[_SWITCH] = '1'
    try:
        with torch.serialization.safe_globals([each for each in SAFE_GLOBALS if each not in users]):
            yield
    finally:
        del os.environ[_SWITCH]
        os.environ.update({} if before is None else {_SWITCH: before})


def _asked_for(error: Exception) -> str:
    if found := re.search(r'GLOBAL ([\w.]+)', str(error)):
        return (
            f'It asks for {found[1]}. If you trust the file, '
            f'torch.serialization.add_safe_globals([{found[1]}]) lets it in'
        )
    found = re.search(r'WeightsUnpickler error:\s*(.+)', str(error))
    return found[1] if found else str(error).splitlines()[0]


def in_words(load: Callable) -> Callable:
    """Make a function that reads local torch files read safetensors too, and name what is neither.

    A damaged file is named as well.
    """

    @wraps(load)
    def load_in_words(filename, *args, **kwargs):
        path = os.path.expanduser(filename)
        if is_safetensors(path):
            return read_safetensors(path)
        if is_paddle(path):
            raise CheckpointError(
                f'{filename} is a pickle, but no torch file; tools/convert_checkpoint.py converts '
                'official Paddle files'
            )
        if os.path.isfile(path) and not (start := _start(path)).startswith(TORCH_STARTS):
            raise CheckpointError(
                f'{filename} is not a checkpoint: it starts with {start!r}, which is neither a '
                'torch file nor a Paddle pickle nor safetensors'
            )
        try:
            return load(filename, *args, **kwargs)
        except (FileNotFoundError, PermissionError):
            raise
        except (RuntimeError, OSError, *BROKEN) as error:
            if isinstance(error, RuntimeError) and _MACHINE.search(str(error)):
                raise
            reason = str(error).split('\n')[0].split('. ')[0] or type(error).__name__
            raise CheckpointError(
                f'{filename} cannot be read as a torch file; it may be cut short ({reason})'
            ) from error

    return load_in_words


def is_safetensors(path: str | Path) -> bool:
    """Whether a file starts as safetensors do: 8 bytes with a length, and a JSON header."""
    if not os.path.isfile(path) or (start := _start(path))[8:] != b'{':
        return False
    fits = int.from_bytes(start[:8], 'little') <= os.path.getsize(path)
    return fits or str(path).endswith('.safetensors')


def is_paddle(path: str | Path) -> bool:
    """Whether a file is a pickle, but no torch file."""
    start = b'' if is_safetensors(path) or not os.path.isfile(path) else _start(path)
    return start[:1] == pickle.PROTO and not start.startswith(TORCH_STARTS)


def _start(path: str | Path) -> bytes:
    with open(path, 'rb') as file:
        return file.read(9)


def read_safetensors(path: str | Path) -> dict[str, dict]:
    """``state_dict`` and ``meta`` (empty in files of others); ValueError for a damaged file."""
    try:
        with safe_open(path, framework='pt') as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get(META_KEY, '{}'))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f'{path} cannot be read as safetensors; it may be cut short ({error})'
        ) from error
    return dict(state_dict=state, meta=meta)
