"""Every checkpoint form in and out, without ever running code from a file.

Importing this module makes all of MMEngine's checkpoint loading safe (``weights_only``), whatever
MMEngine is installed: see :func:`make_loading_safe`.
"""

import argparse
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor

try:  # numpy >= 2
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray

# --- loading torch files ------------------------------------------------------------------------


def _history_buffer_attribute(obj: object, name: str) -> object:
    """Stands in for ``getattr``, which MMEngine's pickled log buffers ask for."""
    if obj is not HistoryBuffer:
        raise pickle.UnpicklingError(f'getattr on {obj!r} is refused; only HistoryBuffer is known')
    return getattr(obj, name)


# What MMEngine's own checkpoints hold beside tensors, under the names of numpy 1 and numpy 2.
SAFE_GLOBALS = [
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
            raise ValueError(
                f'{filename} was refused: it asks for more than tensors and plain '
                f'data. {_asked_for(filename, error)}'
            ) from error
        finally:
            if before is None:
                del os.environ[switch]
            else:
                os.environ[switch] = before

    safe_load.is_safe = True
    return safe_load


def _asked_for(filename: str, error: Exception) -> str:
    found = re.search(r'Unsupported (?:global|class): ?(?:GLOBAL )?([\w.]+)', str(error))
    return f'It asks for {found.group(1)}.' if found else str(error).splitlines()[0]


def make_loading_safe() -> None:
    """Wrap every loader that MMEngine knows (local, http, s3, ...) in :func:`safely`."""
    for prefix, loader in CheckpointLoader._schemes.items():
        if not getattr(loader, 'is_safe', False):
            CheckpointLoader._schemes[prefix] = safely(loader)


make_loading_safe()


# --- reading any form ---------------------------------------------------------------------------

PADDLE_GLOBALS = {
    ('builtins', 'tuple'): tuple,
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): argparse.Namespace,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): multiarray._reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): multiarray._reconstruct,
}


class _PaddleUnpickler(pickle.Unpickler):
    """Unpickles what ``paddle.save`` wrote for MIRL and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in PADDLE_GLOBALS:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return PADDLE_GLOBALS[module, name]


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the model weights of a checkpoint file, under the names in the file.

    Knows official Paddle files (``.pd``, ``.pdparams``), the MAE form (key ``model``) and
    MMEngine's (key ``state_dict``). Nothing in the file is executed.

    Returns:
        The tensors by name, and a dict with ``form`` (``paddle-mirl``, ``mae`` or ``mirl_mm``) and
        ``layout`` (``paddle`` for [in, out] matrices or ``torch``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, is cut short, or asks for anything but data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    with path.open('rb') as file:
        head = file.read(2)
    if head == b'PK':
        content = _read_torch(path)
    elif head[:1] == pickle.PROTO:
        content = _read_paddle(path)
    else:
        raise ValueError(
            f'{path} is not a checkpoint: it starts with {head!r}, neither a torch '
            'file nor a Paddle pickle'
        )
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a dict of weights')

    key = next((key for key in ('model', 'state_dict') if isinstance(content.get(key), dict)), None)
    raw = content[key] if key else content
    state = {
        name: tensor
        for name, tensor in ((n, _as_tensor(v)) for n, v in raw.items())
        if tensor is not None
    }
    if not state:
        raise ValueError(f'{path} holds no tensors; its keys are {sorted(map(str, content))[:8]}')
    paddle = head != b'PK'
    ours = any(name.startswith(('backbone.', 'layers.')) for name in state)
    form = 'paddle-mirl' if paddle else 'mirl_mm' if ours else 'mae'
    return state, dict(form=form, layout='paddle' if paddle else 'torch')


def _read_torch(path: Path) -> object:
    try:
        return safely(torch.load)(str(path), map_location='cpu')
    except RuntimeError as error:
        raise ValueError(
            f'{path} cannot be read as a torch file; it may be cut short ({error})'
        ) from error


def _read_paddle(path: Path) -> object:
    try:
        with path.open('rb') as file:
            return _PaddleUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{path} was refused: {error}; accepted are only '
            f'{", ".join(".".join(pair) for pair in PADDLE_GLOBALS)}'
        ) from error
    except (EOFError, IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is cut short or not a Paddle file ({error})') from error


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, tuple) and len(value) == 2:  # Paddle: (variable name, array)
        value = value[1]
    if isinstance(value, np.ndarray) and value.dtype.kind in 'fiub':
        return torch.from_numpy(value.copy())
    return value if isinstance(value, Tensor) else None


# --- names --------------------------------------------------------------------------------------

# Official name -> ours, tried in this order. A rule with None drops the tensor: decoder positions
# are computed. Inside blocks, names follow mmpretrain (encoder) and mirl_mm.models.decoder.
_ENCODER_BLOCK = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_DECODER_BLOCK = {
    'norm1': 'ln_self',
    'norm2': 'ln_query',
    'norm3': 'ln_context',
    'norm4': 'ln_mlp',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'cross_attn.q': 'cross_attn.q',
    'cross_attn.kv': 'cross_attn.kv',
    'cross_attn.proj': 'cross_attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_PRED = 'neck.decoders.{0}.pred.'
_RULES: list[tuple[str, str | Callable | None]] = [
    (r'(cls_token|pos_embed)', 'backbone.{0}'),
    (r'patch_embed\.proj\.(weight|bias)', 'backbone.patch_embed.projection.{0}'),
    (
        r'blocks\.(\d+)\.(\w+(?:\.\w+)?)\.(weight|bias)',
        lambda i, part, kind: f'backbone.layers.{i}.{_ENCODER_BLOCK[part]}.{kind}',
    ),
    (r'norm\.(weight|bias)', 'backbone.ln1.{0}'),
    (r'fc_norm\.(weight|bias)', 'backbone.ln2.{0}'),
    (r'head\.(weight|bias)', 'head.fc.{0}'),
    (r'norm_low\.(weight|bias)', 'neck.stem_norm.{0}'),
    (r'norm(\d+)\.(weight|bias)', 'neck.norms.{0}.{1}'),
    (r'decoder_embed0_1\.(weight|bias)', 'neck.stem_embed.{0}'),
    (r'decoder_embed(\d+)\.(weight|bias)', 'neck.decoders.{0}.embed.{1}'),
    (r'mask_token(\d+)', 'neck.decoders.{0}.mask_token'),
    (
        r'decoder_blocks(\d+)\.(\d+)\.(\w+(?:\.\w+)?)\.(weight|bias)',
        lambda g, i, part, kind: f'neck.decoders.{g}.blocks.{i}.{_DECODER_BLOCK[part]}.{kind}',
    ),
    (r'decoder_norm(\d+)\.(weight|bias)', 'neck.decoders.{0}.norm.{1}'),
    (r'decoder_pred(\d+)\.bias', _PRED + 'bias'),
    (r'decoder_pred(\d+)\.weight_g', _PRED + 'parametrizations.weight.original0'),
    (r'decoder_pred(\d+)\.weight_v', _PRED + 'parametrizations.weight.original1'),
    (r'decoder_pos_embed\d*', None),
]


def _our_name(name: str) -> str | None:
    for pattern, target in _RULES:
        if found := re.fullmatch(pattern, name):
            try:
                return (
                    target(*found.groups())
                    if callable(target)
                    else target and target.format(*found.groups())
                )
            except KeyError:
                break  # an unknown part of a block
    raise ValueError(
        f'{name!r} is not a name of the official MIRL; known are names such as '
        'blocks.0.attn.qkv.weight, decoder_embed0.bias, decoder_pred0.weight_v'
    )


def convert_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names and layout to ours, with ``backbone.``, ``neck.`` and ``head.`` prefixes.

    Whether matrices are [in, out] (Paddle) or [out, in] (torch) is read off
    ``blocks.0.attn.qkv.weight`` for the whole dict. Every tensor is only renamed, transposed or
    reshaped, so dtypes stay and gradients flow. Positions may be absent; those of the decoders are
    dropped (ours are computed).

    Raises:
        ValueError: a name the official code does not have, or no qkv weight to tell the layout.
    """
    probe = 'blocks.0.attn.qkv.weight'
    if probe not in state:
        raise ValueError(
            f'not an official MIRL state: {probe!r} is missing; it has '
            f'{len(state)} names such as {list(state)[:3]}'
        )
    rows, cols = state[probe].shape
    paddle = cols == 3 * rows
    converted = {}
    for name, tensor in state.items():
        ours = _our_name(name)
        if ours is None:
            continue
        if name.endswith('.weight_g'):
            tensor = tensor.reshape(1, -1)
        elif paddle and tensor.ndim == 2:
            tensor = tensor.t()
        converted[ours] = tensor
    return converted


def backbone_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder alone, without prefix: loads in mmpretrain's stock VisionTransformer.

    Raises:
        ValueError: no name starts with ``backbone.``.
    """
    prefix = 'backbone.'
    encoder = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    if not encoder:
        raise ValueError(f'no name starts with {prefix!r}; the first names are {list(state)[:3]}')
    return encoder
