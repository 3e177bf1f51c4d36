"""Weights to files: as a whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.files import complete_file

from .safetensors_file import write_safetensors

PADDLE_ENDINGS = ('.pd', '.pdparams', '.pdopt')


def check_destination(path: str | Path) -> None:
    """Find out early that a file cannot be written.

    Raises:
        ValueError: the ending is Paddle's, which is read alone.
        OSError: the folder is missing or closed, or the path is a folder.
    """
    path = Path(path)
    if path.suffix in PADDLE_ENDINGS:
        raise UserError(
            f'{path}: Paddle files are read, not written; end it in .safetensors for '
            'safetensors, in anything else (.pth) for a torch file'
        )
    if path.is_dir():
        raise OSError(f'cannot write {path}: it is a folder')
    if not path.parent.is_dir():
        raise OSError(f'cannot write {path}: there is no folder {path.parent}')
    if not os.access(path.parent, os.W_OK):
        raise OSError(f'cannot write {path}: no permission for the folder {path.parent}')


def write_checkpoint(
    path: str | Path, state: Mapping[str, Tensor], meta: dict, flat: bool = False
) -> None:
    """Write weights; safetensors if the path ends so, else a torch file that is safe to load.

    The file appears under its name when it is complete and on the disk; an older one is kept until
    then.

    Args:
        path: the file.
        state: tensors by name; written contiguous, on the CPU, without shared memory.
        meta: plain data (numbers, text, lists, dicts).
        flat: in a torch file, the dict of tensors alone (as timm's), without meta.

    Raises:
        ValueError, OSError: as :func:`check_destination`; the disk is full.
    """
    path = Path(path)
    check_destination(path)
    state = {name: _own(tensor) for name, tensor in state.items()}
    try:
        with complete_file(path) as part:
            if path.suffix == '.safetensors':
                write_safetensors(part, state, meta)
            else:
                with part.open('wb') as file:
                    torch.save(state if flat else dict(state_dict=state, meta=meta), file)
    except (OSError, RuntimeError) as error:
        raise OSError(f'cannot write {path}: {error}') from error


def _own(tensor: Tensor) -> Tensor:
    """The same values in memory of their own, so that a view does not drag its whole along."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() == whole else tensor.clone()
