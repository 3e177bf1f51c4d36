"""Features on disk that grow batch by batch, so that a stopped run goes on where it was."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from mirl_mm.errors import UserError

SAVE_EVERY = 10  # seconds


def cached_features(
    folder: Path,
    key: dict,
    shape: tuple[int, ...],
    compute: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
) -> np.ndarray:
    """The features [N, ...] float16 that belong to a key, read-only and mapped from disk.

    Args:
        folder: where ``<digest of the key>.npy`` and ``.json`` (key and finished rows) lie.
        key: plain data; whatever the features depend on.
        shape: [N, ...] of the whole.
        compute: gives the batches from a row on, as :func:`features.batches` does.

    Raises:
        ValueError: what is computed has another shape or is not finite.
    """
    text = json.dumps(key, sort_keys=True)
    array = folder / f'{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy'
    note = array.with_suffix('.json')
    done = _finished(note, key) if array.is_file() else 0
    folder.mkdir(parents=True, exist_ok=True)
    if done < shape[0]:
        rows = np.lib.format.open_memmap(
            array, mode='r+' if done else 'w+', dtype=np.float16, shape=None if done else shape
        )
        saved = time.monotonic()
        for batch, _ in compute(done):
            if batch.shape[1:] != rows.shape[1:]:
                raise UserError(f'features of shape {tuple(batch.shape[1:])}, not {shape[1:]}')
            if not batch.isfinite().all():
                raise UserError(f'features of images {done} to {done + len(batch)} are not finite')
            rows[done : done + len(batch)] = batch.numpy()
            done += len(batch)
            if done == shape[0] or time.monotonic() - saved > SAVE_EVERY:
                rows.flush()
                _save(note, key, done)
                saved = time.monotonic()
        del rows
    return np.load(array, mmap_mode='r')


def _finished(note: Path, key: dict) -> int:
    """Rows that are done according to the note beside an array."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):  # stopped before the first note
        return 0
    return content['done'] if content.get('key') == key else 0


def _save(note: Path, key: dict, done: int) -> None:
    temporary = note.with_suffix('.tmp')
    temporary.write_text(json.dumps(dict(key=key, done=done), indent=1))
    os.replace(temporary, note)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()
