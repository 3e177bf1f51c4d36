"""What passes over images have found so far, on disk: a stopped one goes on where it was.

Shapes: N images, K blocks, P pools (cls, avg), D width.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import VisionTransformer
from torch import nn
from torch.optim import Optimizer

from mirl_mm.errors import UserError
from mirl_mm.files import complete_file, read_json, write_json

from .features import RANDOM, Batches, patch_side

SAVE_EVERY = 10  # seconds; a pass whose saves are slow, 20 times what the last one took


def cached_features(
    folder: Path, key: dict, shape: tuple[int, ...], compute: Callable[[int], Batches]
) -> np.ndarray:
    """The features [N, ...] float16 that belong to a key, read-only and mapped from disk.

    In the folder lie ``<digest of the key>.npy`` and ``.json`` (the key, and how many are done). A
    key is plain data: whatever the features depend on. ``compute`` gives the batches from a row on;
    UserError for another shape than [N, ...] of the whole, and for what is not finite.
    """
    done = 0
    array, note = (folder / f'{_digest(key)}{end}' for end in ('.npy', '.json'))
    if array.is_file():
        content = read_json(note)  # empty if stopped before the first note
        done = content['done'] if content.get('key') == key else 0
    folder.mkdir(parents=True, exist_ok=True)
    if done < shape[0]:
        new = {} if done else dict(mode='w+', dtype=np.float16, shape=shape)
        rows, saved = np.lib.format.open_memmap(array, **new), time.monotonic()
        for batch, _ in compute(done):
            if batch.shape[1:] != rows.shape[1:]:
                raise UserError(f'features of shape {tuple(batch.shape[1:])}, not {shape[1:]}')
            if not batch.isfinite().all():
                raise UserError(f'features of images {done} to {done + len(batch)} are not finite')
            rows[done : done + len(batch)] = batch.numpy()
            done += len(batch)
            if done == shape[0] or time.monotonic() - saved > SAVE_EVERY:
                rows.flush()
                write_json(note, dict(key=key, done=done))
                saved = time.monotonic()
        del rows
    return np.load(array, mmap_mode='r')


def cached_pass(
    folder: Path,
    key: dict,
    parts: Mapping[str, nn.Module | Optimizer],
    total: int,
    compute: Callable[[int], Iterable[int]],
) -> None:
    """Bring modules and optimizers to the end of a pass over so many images or steps.

    ``compute`` goes on from a place and yields, time and again, how many more it has done. What it
    changes lies in the state dicts of the parts, which the folder keeps in ``<digest of the
    key>.pth``.
    """
    file, done = folder / f'{_digest(key)}.pth', 0
    saved, took = time.monotonic(), 0.0
    if file.is_file():
        try:
            content = torch.load(file, map_location='cpu', weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(content[name])
            done = content['done']
        except Exception as error:  # unpickling raises what it likes
            advice = 'remove it to begin that pass anew'
            raise UserError(f'{file} is damaged ({type(error).__name__}): {advice}') from error
    folder.mkdir(parents=True, exist_ok=True)
    for number in compute(done) if done < total else ():
        done += number
        began = time.monotonic()
        if done == total or began - saved > SAVE_EVERY * max(1, 2 * took):
            states = {name: part.state_dict() for name, part in parts.items()}
            with complete_file(file) as partial:
                torch.save(states | dict(done=done), partial)
            saved = time.monotonic()
            took = saved - began


def encoder_key(vit: VisionTransformer, weights: str, preprocessor: nn.Module, amp: bool) -> dict:
    """What any feature of an encoder depends on; the weights as :func:`weights_of` tells them."""
    sizes = dict(img_size=list(vit.img_size), patch_size=patch_side(vit))
    norm = {name: getattr(preprocessor, name).flatten().tolist() for name in ('mean', 'std')}
    how = dict(arch=dict(vit.arch_settings), to_rgb=preprocessor.to_rgb, amp=amp)
    return dict(weights=weights, **sizes, **norm, **how)


def digest_of(files: Iterable[Path], root: str | Path) -> str:
    """What tells files apart: SHA-256 of their names below the root, sizes and times."""
    found = hashlib.sha256()
    for file in files:
        stat = file.stat()
        line = f'{file.relative_to(root)}\t{stat.st_size}\t{stat.st_mtime_ns}\n'
        found.update(line.encode())
    return found.hexdigest()


def images_digest(dataset: CustomDataset) -> str:
    """The same of a dataset's images."""
    files = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
    return digest_of(files, dataset.img_prefix)


def weights_of(checkpoint: str | Path) -> str:
    """What tells weights apart: SHA-256 of a file or folder, or that they are random."""
    if checkpoint == RANDOM:
        return f'{RANDOM}, seed 0'
    path = Path(checkpoint)
    files = sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()


def _digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
