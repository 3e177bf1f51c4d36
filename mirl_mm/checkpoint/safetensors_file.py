"""Safetensors files: tensors, and a meta dict as JSON in their header."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirl_mm.errors import CheckpointError

META_KEY = 'mirl_mm'  # of the header's metadata, where every value has to be a string


def is_safetensors(path: str | Path) -> bool:
    """Whether a file starts as safetensors do: 8 bytes with a length, and a JSON header."""
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        start = file.read(9)
    fits = int.from_bytes(start[:8], 'little') <= os.path.getsize(path)
    return start[8:] == b'{' and (fits or str(path).endswith('.safetensors'))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors by name, and the meta dict (empty in files of others).

    Raises:
        ValueError: the file is cut short or damaged.
    """
    try:
        with safe_open(path, framework='pt') as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get(META_KEY, '{}'))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f'{path} cannot be read as safetensors; it may be cut short ({error})'
        ) from error
    return state, meta


def write_safetensors(path: str | Path, state: dict[str, Tensor], meta: dict) -> None:
    """Write contiguous tensors that share no memory."""
    header = {'format': 'pt', META_KEY: json.dumps(meta)}
    save_file(state, path, metadata=header)
