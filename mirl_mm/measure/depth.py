"""What each depth of an encoder knows: k-NN and a linear probe behind every n-th block.

The features lie on disk and grow batch by batch, so that a stopped run goes on where it was.
Shapes: N images, B batch, K blocks, P pools (cls, avg), D width.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import ClsDataPreprocessor, VisionTransformer
from torch import Tensor
from torch.utils.data import Subset

from mirl_mm.errors import UserError
from mirl_mm.files import read_json, write_json

from .features import POOLS, RANDOM, Batches, Loading, batches, block_features, progress
from .knn import knn_accuracy
from .linear import ridge_accuracy

VERSION = 1  # of block_features: a change of what it gives raises it, and older caches are left
SAVE_EVERY = 10  # seconds


class Probing(NamedTuple):
    """How images become features behind blocks."""

    blocks: Sequence[int]  # 0-based, ascending
    pools: Sequence[str]  # those to probe; features are of all
    pipeline: Sequence[dict]
    preprocessor: ClsDataPreprocessor
    loading: Loading


def probed_blocks(depth: int, every: int) -> list[int]:
    """0-based indices of every n-th block, the last one always among them."""
    if not 1 <= every <= depth:
        raise UserError(f'every must be between 1 and the depth {depth}, got {every}')
    return list(range(depth - 1, -1, -every))[::-1]


def probes(
    features: Sequence[np.ndarray], labels: Sequence[Tensor], how: Probing, k: int
) -> Iterator[dict]:
    """Both probes of every block and pool, for training and validation images.

    Features are [N, K, P, D] and labels [N]. A row has ``block`` (from 1), ``pool``, ``knn`` and
    ``linear`` (in percent) and ``penalty`` (of the latter).
    """
    for (i, block), pool in product(enumerate(how.blocks), how.pools):
        at = (slice(None), i, POOLS.index(pool))
        train, val = (torch.from_numpy(np.array(each[at])) for each in features)
        pairs = (train, labels[0], val, labels[1])
        linear, penalty = ridge_accuracy(*pairs)
        near = knn_accuracy(*pairs, ks=[k], device=get_device())[k]
        yield dict(block=block + 1, pool=pool, knn=near, linear=linear, penalty=penalty)


def depth_features(
    encoder: VisionTransformer,
    weights: str,
    dataset: CustomDataset,
    how: Probing,
    folder: Path,
    title: str,
) -> np.ndarray:
    """Features [N, K, P, D] of a set, from the folder as far as they are there.

    ``weights`` tells the encoder's apart, such as a digest; the title is for the progress.
    """
    images, norm = hashlib.sha256(), how.preprocessor
    for path in (Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))):
        name, stat = path.relative_to(dataset.img_prefix), path.stat()
        images.update(f'{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n'.encode())
    key = dict(  # all that the features depend on
        version=VERSION, weights=weights, arch=dict(encoder.arch_settings),
        img_size=list(encoder.img_size), blocks=list(how.blocks), amp=how.loading.amp,
        images=images.hexdigest(), pipeline=str(how.pipeline), mean=norm.mean.flatten().tolist(),
        std=norm.std.flatten().tolist(), to_rgb=norm.to_rgb,
    )  # fmt: skip

    def compute(done: int) -> Iterator[tuple[Tensor, Tensor]]:
        encoder.to(get_device())
        rest = Subset(dataset, range(done, len(dataset)))
        encode = partial(block_features, encoder, blocks=how.blocks)
        found = batches(rest, encode, norm.to(get_device()), how.loading)
        yield from progress(found, len(dataset), f'{title} features', done)
        encoder.cpu()

    shape = (len(dataset), len(how.blocks), len(POOLS), encoder.embed_dims)
    return cached_features(folder, key, shape, compute)


def cached_features(
    folder: Path, key: dict, shape: tuple[int, ...], compute: Callable[[int], Batches]
) -> np.ndarray:
    """The features [N, ...] float16 that belong to a key, read-only and mapped from disk.

    In the folder lie ``<digest of the key>.npy`` and ``.json`` (the key, and how many are done). A
    key is plain data: whatever the features depend on. ``compute`` gives the batches from a row on;
    UserError for another shape than [N, ...] of the whole, and for what is not finite.
    """
    digest, done = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest(), 0
    array, note = (folder / f'{digest[:20]}{end}' for end in ('.npy', '.json'))
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


def weights_of(checkpoint: str | Path) -> str:
    """What tells weights apart: SHA-256 of a file or folder, or that they are random."""
    if checkpoint == RANDOM:
        return f'{RANDOM}, seed 0'
    path = Path(checkpoint)
    files = sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()
