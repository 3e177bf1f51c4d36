"""What each depth of an encoder knows: k-NN and a linear probe behind every n-th block.

Shapes: N images, B batch, K blocks, P pools (cls, avg), D width.
"""

from collections.abc import Iterator, Sequence
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

from .cached import cached_features, encoder_key, images_digest
from .features import POOLS, Loading, batches, block_features, progress
from .knn import knn_accuracy
from .linear import ridge_accuracy

VERSION = 1  # of block_features: a change of what it gives raises it, and older caches are left


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
    norm, settings = how.preprocessor, dict(version=VERSION, blocks=list(how.blocks))
    key = settings | dict(pipeline=str(how.pipeline), images=images_digest(dataset))
    key |= encoder_key(encoder, weights, norm, how.loading.amp)

    def compute(done: int) -> Iterator[tuple[Tensor, Tensor]]:
        encoder.to(get_device())
        rest = Subset(dataset, range(done, len(dataset)))
        encode = partial(block_features, encoder, blocks=how.blocks)
        found = batches(rest, encode, norm.to(get_device()), how.loading)
        yield from progress(found, len(dataset), f'{title} features', done)
        encoder.cpu()

    shape = (len(dataset), len(how.blocks), len(POOLS), encoder.embed_dims)
    return cached_features(folder, key, shape, compute)
