"""Torch files without their code: what may be unpickled, and MMEngine's loaders held to it."""

import argparse
import os
import pickle
import re
from collections.abc import Callable
from functools import wraps

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mirl_mm.errors import CheckpointError

from .safetensors_file import is_safetensors, read_safetensors

try:  # numpy >= 2
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray


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
    argparse.Namespace,
    HistoryBuffer,
    (_history_buffer_attribute, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *[
        (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ],
    *sorted({type(np.dtype(kind)) for kind in 'bBhHiIlLqQefd?'}, key=lambda kind: kind.__name__),
]

TORCH_STARTS = (b'PK', b'\x80\x02\x8a\nl\xfc\x9cF\xf9')  # a zip, or torch.save before torch 1.6
# What unpickling broken bytes may raise beside UnpicklingError.
BROKEN = (EOFError, IndexError, KeyError, AttributeError, TypeError, ValueError, MemoryError)
# RuntimeErrors of the machine, not of the file.
_MACHINE = re.compile('CUDA|out of memory|deserialize object on')


def safely(load: Callable) -> Callable:
    """Make a function that calls ``torch.load`` refuse everything but data.

    The variable is torch's own switch; it holds even where the function inside asks for the unsafe
    mode after the safe one failed.
    """

    @wraps(load)
    def safe_load(filename, *args, **kwargs):
        switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
        before = os.environ.get(switch)
        os.environ[switch] = '1'
        try:
            with torch.serialization.safe_globals(SAFE_GLOBALS):
                return load(filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f'{filename} was refused: it asks for more than tensors and plain '
                f'data. {_asked_for(error)}'
            ) from error
        finally:
            if before is None:
                del os.environ[switch]
            else:
                os.environ[switch] = before

    safe_load.is_safe = True
    return safe_load


def in_words(load: Callable) -> Callable:
    """Make a function that reads local torch files name a file that is none, or is damaged."""

    @wraps(load)
    def load_in_words(filename, *args, **kwargs):
        path = os.path.expanduser(filename)
        if os.path.isfile(path):
            with open(path, 'rb') as file:
                start = file.read(9)
            if start[:1] == pickle.PROTO and not start.startswith(TORCH_STARTS):
                raise CheckpointError(
                    f'{filename} is a pickle, but no torch file; tools/convert_checkpoint.py '
                    'converts official Paddle files'
                )
            if not start.startswith(TORCH_STARTS):
                raise CheckpointError(
                    f'{filename} is not a checkpoint: it starts with {start!r}, which is neither a '
                    'torch file nor safetensors'
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


def _asked_for(error: Exception) -> str:
    if found := re.search(r'GLOBAL ([\w.]+)', str(error)):
        return f'It asks for {found[1]}.'
    found = re.search(r'WeightsUnpickler error:\s*(.+)', str(error))
    return found[1] if found else str(error).splitlines()[0]


def make_loading_safe() -> None:
    """Wrap every loader that MMEngine knows (local, http, s3, ...) in :func:`safely`.

    The local one also reads safetensors. The maintained MMEngine would allow the true ``getattr``
    on top of :data:`SAFE_GLOBALS`, with which a file reaches and changes any module: its own list
    is emptied.
    """
    if hasattr(mmengine.runner.checkpoint, 'get_torch_safe_globals'):
        mmengine.runner.checkpoint.get_torch_safe_globals = list
    for prefix, loader in CheckpointLoader._schemes.items():
        if not getattr(loader, 'is_safe', False):
            loader = safely(loader if prefix else in_words(loader))
            CheckpointLoader._schemes[prefix] = loader if prefix else _or_safetensors(loader)


def _or_safetensors(load: Callable) -> Callable:
    @wraps(load)
    def load_local(filename, *args, **kwargs):
        path = os.path.expanduser(filename)
        if not is_safetensors(path):
            return load(filename, *args, **kwargs)
        state, meta = read_safetensors(path)
        return dict(state_dict=state, meta=meta)

    return load_local
