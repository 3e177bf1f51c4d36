"""Files without their code: what may be unpickled, and MMEngine's loaders held to it."""

import argparse
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from functools import wraps
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open

from mirl_mm.errors import CheckpointError

try:  # numpy 2
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray
CORES = ('core', '_core')  # under which names files of numpy 1 and numpy 2 ask for it


def _history_buffer_attribute(obj: object, name: str) -> object:
    """Stands in for ``getattr``, which MMEngine's pickled log buffers ask for."""
    if obj is not HistoryBuffer or name.startswith('_'):
        reason = f'getattr({obj!r}, {name!r}): only the methods of HistoryBuffer are known'
        raise pickle.UnpicklingError(reason)
    return getattr(obj, name)


def _plain_dict(*_: object) -> dict:
    """Stands in for ``defaultdict``, without its factory, which a file would have called later."""
    return {}


def _short_range(*given: int) -> range:
    """Stands in for ``range``, of which a file may make a list."""
    if len(asked := range(*given)) > 1_000_000:
        raise pickle.UnpicklingError(f'{asked} is too long')
    return asked


class _Dtype:
    """Stands in for ``numpy.dtype``, which damaged or hostile state makes write over memory."""

    def __init__(self, kind: str, *_: object) -> None:
        self.plain = np.dtype(kind)
        if self.plain.kind not in 'biufcSU':
            raise pickle.UnpicklingError(f'arrays of {self.plain} are no plain data')

    def __setstate__(self, state: tuple) -> None:
        self.plain = self.plain.newbyteorder(state[1])

    def __repr__(self) -> str:
        return str(self.plain)

    def __reduce__(self) -> tuple:
        return self.plain.__reduce__()


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``, which does not see all sizes that are no array's."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, *more = state
        if min(shape, default=0) < 0 or prod(shape) * dtype.plain.itemsize != len(more[-1]):
            raise pickle.UnpicklingError(f'{len(more[-1])} bytes are no array {shape}')
        super().__setstate__((version, shape, dtype.plain, *more))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


_KINDS = (
    *(set, frozenset, list, dict, tuple, int, float, bool, str, slice, SimpleNamespace),
    *(date, datetime, timedelta, timezone),
)
_PATHLIBS = ('pathlib', 'pathlib._local')  # as of Python 3.13
# Python's own plain data in arguments and settings. Paths become pure ones, which reach no file.
PLAIN: dict[str, object] = {
    **{f'{room}.{pure}PosixPath': PurePosixPath for room in _PATHLIBS for pure in ('', 'Pure')},
    **{f'{room}.{pure}WindowsPath': PureWindowsPath for room in _PATHLIBS for pure in ('', 'Pure')},
    **{f'{kind.__module__}.{kind.__name__}': kind for kind in _KINDS},
    'collections.defaultdict': _plain_dict,
    'builtins.range': _short_range,
    **{'numpy.ndarray': _Array, 'numpy.dtype': _Dtype},
}
for room in (f'numpy.{core}.multiarray' for core in CORES):
    PLAIN[f'{room}._reconstruct'] = lambda *_: multiarray._reconstruct(_Array, (0,), b'b')
    PLAIN[f'{room}.scalar'] = lambda dtype, content: multiarray.scalar(dtype.plain, content)
# What checkpoints hold beside tensors: MAE's arguments, and MMEngine's logs, of numpy 1 and 2.
SAFE_GLOBALS = [
    *((kind, name) for name, kind in PLAIN.items()),
    *(argparse.Namespace, HistoryBuffer, (_history_buffer_attribute, 'builtins.getattr')),
]

META_KEY = 'mirl_mm'  # of a safetensors header's metadata, where every value has to be a string
# What unpickling broken bytes may raise beside UnpicklingError.
BROKEN = (EOFError, LookupError, AttributeError, TypeError, ValueError, MemoryError, struct.error)
BROKEN += (AssertionError, OverflowError, RecursionError, SystemError)
_NAME = '{0.__module__}.{0.__qualname__}'  # by which torch would take either of two
_SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_MMENGINES: dict[str, Callable] = {}  # its loaders by prefix, while ours stand in their place
_MMENGINES_LIST = 'get_torch_safe_globals'  # which the maintained MMEngine has


def make_loading_safe() -> None:
    """Wrap every loader that MMEngine knows (local, http, s3, ...) in :func:`safely`.

    The maintained MMEngine would allow the true ``getattr`` on top of :data:`SAFE_GLOBALS`, with
    which a file reaches and changes any module: its own list is emptied.
    """
    if own_list := getattr(mmengine.runner.checkpoint, _MMENGINES_LIST, None):
        _MMENGINES.setdefault(_MMENGINES_LIST, own_list)
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
    ``torch.serialization.add_safe_globals``, which stays, also where it is among ours.
    """

    @wraps(load)
    def safe_load(filename, *args, **kwargs):
        before, users = os.environ.get(_SWITCH), torch.serialization.get_safe_globals()
        names = [x[1] if isinstance(x, tuple) else _NAME.format(x) for x in users]
        theirs = [x for x, name in zip(users, names, strict=True) if name not in PLAIN]
        os.environ[_SWITCH] = '1'  # torch's own: it overrules a call that asks for the unsafe mode
        try:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(theirs + SAFE_GLOBALS)
            return load(filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            if found := re.search(r'GLOBAL ([\w.]+)', str(error)):
                lets_in = f'torch.serialization.add_safe_globals([{found[1]}]) lets it in'
                reason = f'It asks for {found[1]}. If you trust the file, {lets_in}'
            elif found := re.search(r'WeightsUnpickler error:\s*(.+)', str(error)):
                reason = found[1]
            what = 'was refused: it asks for more than tensors and plain data'
            raise CheckpointError(f'{filename} {what}. {reason}') from error
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(users)
            del os.environ[_SWITCH]
            os.environ.update({} if before is None else {_SWITCH: before})

    safe_load.is_safe = True
    return safe_load


def in_words(load: Callable) -> Callable:
    """Make a loader of local torch files read safetensors too, and name what it cannot read."""

    @wraps(load)
    def load_in_words(filename, *args, **kwargs):
        path = os.path.expanduser(filename)
        kind = file_kind(path)
        if kind == 'safetensors':
            return read_safetensors(path)
        if kind == 'paddle':
            other = 'tools/convert_checkpoint.py converts official Paddle files'
            raise CheckpointError(f'{filename} is a pickle, but no torch file; {other}')
        if kind not in ('torch', 'no file'):
            what = 'as no torch file, Paddle pickle or safetensors do'
            raise CheckpointError(f'{filename} is not a checkpoint: it starts with {kind}, {what}')
        try:
            return load(filename, *args, **kwargs)
        except (FileNotFoundError, PermissionError):
            raise
        except (RuntimeError, OSError, *BROKEN) as error:
            text = str(error)
            of_machine = re.search('CUDA|out of memory|deserialize object on', text)
            if isinstance(error, RuntimeError) and of_machine:
                raise
            reason = text.split('\n')[0].split('. ')[0] or type(error).__name__
            what = 'cannot be read as a torch file; it may be cut short'
            raise CheckpointError(f'{filename} {what} ({reason})') from error

    return load_in_words


def file_kind(path: str | Path) -> str:
    """``safetensors``, ``torch``, ``paddle`` (another pickle), ``no file``, or the first bytes."""
    if not os.path.isfile(path):
        return 'no file'
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{':  # after 8 bytes with the length of the JSON header
        fits = int.from_bytes(start[:8], 'little') <= os.path.getsize(path)
        if fits or str(path).endswith('.safetensors'):
            return 'safetensors'
    if start.startswith((b'PK', b'\x80\x02\x8a\nl\xfc\x9cF\xf9')):  # a zip; before torch 1.6
        return 'torch'
    return 'paddle' if start[:1] == pickle.PROTO else repr(start)


def read_safetensors(path: str | Path) -> dict[str, dict]:
    """``state_dict`` and ``meta`` (empty in files of others); UserError for a damaged file."""
    try:
        with safe_open(path, framework='pt') as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = dict(json.loads((file.metadata() or {}).get(META_KEY, '{}')))
    except (SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
        reason = f'cannot be read as safetensors; it may be cut short ({error})'
        raise CheckpointError(f'{path} {reason}') from error
    return dict(state_dict=state, meta=meta)
