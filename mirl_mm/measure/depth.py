"""What each depth of an encoder knows of classes: k-NN and linear probes behind every n-th block.

Shapes: N images, B batch, K blocks, P pools (cls, avg), D width, F parts or draws.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

from mirl_mm.datasets.class_folders import some_of_each
from mirl_mm.errors import UserError

from .cached import cached_features, encoder_key, images_digest
from .curves import Curve, mean, parts_of
from .features import POOLS, Loading, batches, block_features, progress
from .knn import knn_correct
from .linear import PENALTIES, ridge_correct

VERSION = 1  # of block_features: a change of what it gives raises it, and older caches are left
SHARE = 0.1  # see classify_curves


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


def classify_curves(
    encoder: VisionTransformer,
    train: CustomDataset,
    val: CustomDataset,
    how: Probing,
    folder: Path,
    weights: str,
    title: str,
    k: int,
    few: Mapping[int, Sequence[Tensor]],
) -> list[Curve]:
    """Curves ``knn``, ``linear`` (in percent) and its ``penalty``, of every pool.

    Also means over ``few`` of the training images, as :func:`drawn`. Always all of validation is
    classified. Of fewer than k images all vote, and with none to spare for choosing the penalty, it
    is SHARE times the number of features an image: on Tiny-ImageNet-100, 1 to 10 shots, 64 features
    behind blocks 8 and 24 of 24, at most 0.5 points below the best of 0.001 to 1 (3 draws).
    """
    sets = dict(training=train, validation=val)
    rest = [(images, how, folder, f'{title}, {part}') for part, images in sets.items()]
    features = [depth_features(encoder, weights, *each) for each in rest]  # 2 x [N, K, P, D]
    labels, wanted = (torch.from_numpy(each.get_gt_labels()) for each in (train, val))
    few, found, curves = {0: [slice(None)], **few}, defaultdict(list), []
    for i, pool in product(range(len(how.blocks)), how.pools):
        at = (slice(None), i, POOLS.index(pool))
        memory, queries = (torch.from_numpy(np.array(each[at])) for each in features)
        for shots, pick in ((shots, pick) for shots, picks in few.items() for pick in picks):
            four = (memory[pick], labels[pick], queries, wanted)
            images, width = four[0].shape
            linear, penalty = ridge_correct(*four, [SHARE * width / images] if shots else PENALTIES)
            near = knn_correct(*four, [min(k, images)], device=get_device())
            found[pool, shots].append((near[0].cpu(), linear, penalty))
    for (pool, shots), each in found.items():
        *both, penalties = zip(*each, strict=True)
        where = dict(pool=pool) | (dict(shots=shots) if shots else {})
        for name, right in zip(('knn', 'linear'), both, strict=True):
            right = 100 * torch.stack(right).double().unflatten(0, (len(how.blocks), -1))  # [K,F,M]
            if shots:
                curve = Curve.of_draws(name, right.mean(dim=2).T)
            else:
                curve = Curve.of(name, parts_of(right[:, 0].T), mean)
            curves.append(curve._replace(where=where))
        penalties = torch.tensor(penalties[:: len(few[shots])], dtype=torch.float64)  # as of a draw
        curves.append(Curve('penalty', penalties, torch.nan * penalties[None], where=where))
    return curves


def drawn(train: CustomDataset, shots: Sequence[int], draws: int) -> dict[int, list[Tensor]]:
    """Places of so many images of each class: some draws, of seeds 0 on, for each number.

    UserError where a class has fewer, and for a single draw, which has no spread.
    """
    labels = train.get_gt_labels()
    counts = np.bincount(labels).tolist()
    if shots and draws < 2:
        raise UserError(f'--draws must be at least 2, since the spread is over draws, got {draws}')
    if wrong := [number for number in shots if not 1 <= number <= min(counts)]:
        name = train.metainfo['classes'][counts.index(min(counts))]
        accepted = f'accepted are 1 to {min(counts)}, the training images of the class {name}'
        raise UserError(f'--shots is {", ".join(map(str, wrong))}; {accepted}')
    seeds = [torch.Generator().manual_seed(i) for i in range(draws)]
    orders = [torch.randperm(len(labels), generator=seed) for seed in seeds]
    return {n: [order[some_of_each(labels[order], n)] for order in orders] for n in shots}


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
