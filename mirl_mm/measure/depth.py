"""What each depth of an encoder knows: k-NN and a linear probe behind every n-th block.

Holds checkpoints of one arch against each other, MIRL against MAE for instance: where deep blocks
degrade, the curve falls.

Shapes: N images, K blocks, P pools (cls, avg), D width.
"""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import ClsDataPreprocessor, VisionTransformer
from torch import Tensor
from torch.utils.data import Subset

from mirl_mm.datasets.class_folders import check_classes, class_folders
from mirl_mm.engine.run_facts import environment
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, write_json
from mirl_mm.pictures.charts import depth_charts, draw_charts

from .cache import cached_features, file_digest
from .encoder import RANDOM, load_encoder
from .features import (
    POOLS,
    Loading,
    batches,
    block_features,
    preprocessor_of,
    progress,
    test_pipeline_of,
)
from .knn import check_ks, knn_accuracy
from .linear import check_enough, ridge_accuracy

VERSION = 1  # of block_features: a change of what it gives raises it, and older caches are left


def probe_depth(
    cfg: Config,
    checkpoints: Sequence[str],
    train: str,
    val: str,
    out: str | Path,
    every: int = 1,
    limit: int | None = None,
    labels: Sequence[str] | None = None,
    pools: Sequence[str] = ('avg',),
    k: int = 20,
    loading: Loading = Loading(),  # noqa: B008 (immutable)
) -> list[dict]:
    """Probe the checkpoints and write ``depth.csv``, ``depth.json`` and ``depth.png`` to ``out``.

    Features are cached in ``out/features`` by what the checkpoint, the images and the settings are:
    an interrupted run goes on, and more checkpoints cost only themselves.

    Args:
        cfg: a config with the encoder's arch.
        checkpoints: files with its weights, or ``random``.
        train: class folders of the images that the probes learn from.
        val: class folders of the images to classify.
        out: folder of the results.
        every: probe every so manieth block, from the last one down.
        limit: at most so many images of each class.
        labels: names of the checkpoints in the results.
        pools: of :data:`features.POOLS`. By default not the cls token, to which masked pre-training
            gives no task.
        k: neighbours.
        loading: how images reach the encoder.

    Returns:
        The table's rows: ``label``, ``block`` (from 1), ``pool``, ``knn``, ``linear`` (both in
        percent), ``penalty`` (of the linear probe).

    Raises:
        FileNotFoundError, ValueError: folders, checkpoints or settings that cannot be used; before
            anything is computed.
    """
    labels = checkpoint_labels(checkpoints, labels)
    if not pools or set(pools) - set(POOLS):
        raise UserError(f'pools must be some of {", ".join(POOLS)}, got {list(pools)}')
    encoders = [load_encoder(cfg, path) for path in checkpoints]
    blocks = probed_blocks(encoders[0].num_layers, every)
    pipeline = test_pipeline_of(cfg, encoders[0].img_size[0])
    sets = [class_folders(folder, pipeline, limit) for folder in (train, val)]
    check_classes(*sets)
    check_ks([k], len(sets[0]))
    check_enough(len(sets[0]))
    check_folder(out)
    preprocessor = preprocessor_of(cfg.model)

    rows, out = [], Path(out)
    targets = [torch.from_numpy(dataset.get_gt_labels()) for dataset in sets]
    for label, path, encoder in zip(labels, checkpoints, encoders, strict=True):
        content = f'{RANDOM}, seed 0' if path == RANDOM else file_digest(path)
        features = []
        for dataset, part in zip(sets, ('training', 'validation'), strict=True):
            key = cache_key(content, encoder, preprocessor, dataset, pipeline, blocks, loading.amp)
            shape = (len(dataset), len(blocks), len(POOLS), encoder.embed_dims)
            title = f'{label}, {part} features'
            compute = partial(encode_from, encoder, preprocessor, dataset, blocks, loading, title)
            features.append(cached_features(out / 'features', key, shape, compute))
        for i, block in enumerate(blocks):
            for pool in pools:
                at = (slice(None), i, POOLS.index(pool))
                probed = probe([np.array(f[at]) for f in features], targets, k)
                rows.append(dict(label=label, block=block + 1, pool=pool, **probed))
                print(
                    f'  {label}, block {block + 1} of {encoder.num_layers}, {pool}: '
                    f'{k}-NN {probed["knn"]:.2f} %, linear {probed["linear"]:.2f} %',
                    flush=True,
                )
    settings = dict(
        config=os.path.relpath(cfg.filename),
        train=train,
        val=val,
        every=every,
        checkpoints=dict(zip(labels, checkpoints, strict=True)),
        limit=limit,
        k=k,
        classes=len(targets[0].unique()),
        train_images=len(targets[0]),
        val_images=len(targets[1]),
        amp=loading.amp,
    )
    with (out / 'depth.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(out / 'depth.json', environment() | dict(settings=settings, rows=rows))
    draw_charts(depth_charts(rows, k), out / 'depth.png')
    return rows


def probe(features: Sequence[np.ndarray], labels: Sequence[Tensor], k: int) -> dict[str, float]:
    """Both probes on the features [N, D] of training and validation images."""
    train, val = (torch.from_numpy(part) for part in features)
    pairs = (train, labels[0], val, labels[1])
    linear, penalty = ridge_accuracy(*pairs)
    near = knn_accuracy(*pairs, ks=[k], device=get_device())[k]
    return dict(knn=near, linear=linear, penalty=penalty)


def probed_blocks(depth: int, every: int) -> list[int]:
    """0-based indices of every n-th block, the last one always among them."""
    if not 1 <= every <= depth:
        raise UserError(f'every must be between 1 and the depth {depth}, got {every}')
    return list(range(depth - 1, -1, -every))[::-1]


def checkpoint_labels(checkpoints: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """The given labels, or ``folder/stem`` of the paths; ValueError where they are not one each."""
    if not labels:
        labels = ['/'.join(Path(p).with_suffix('').parts[-2:]) for p in checkpoints]
    if len(labels) != len(checkpoints) or len(set(labels)) != len(labels):
        raise UserError(
            f'{len(checkpoints)} checkpoints need as many different labels, got '
            f'{", ".join(labels)}; --labels sets them'
        )
    return list(labels)


def encode_from(
    encoder: VisionTransformer,
    preprocessor: ClsDataPreprocessor,
    dataset: CustomDataset,
    blocks: Sequence[int],
    loading: Loading,
    title: str,
    done: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [B, K, P, D] and labels [B] of the images from number ``done`` on."""
    encoder.to(get_device())
    found = batches(
        Subset(dataset, range(done, len(dataset))),
        lambda imgs: block_features(encoder, imgs, blocks),
        preprocessor.to(get_device()),
        loading,
    )
    yield from progress(found, len(dataset), title, done)
    encoder.cpu()


def cache_key(
    content: str,
    encoder: VisionTransformer,
    preprocessor: ClsDataPreprocessor,
    dataset: CustomDataset,
    pipeline: Sequence[dict],
    blocks: Sequence[int],
    amp: bool,
) -> dict:
    """All that the features of a set depend on, as plain data.

    Args:
        content: tells the weights.
        encoder: for its arch and image size.
        preprocessor: for the normalisation.
        dataset: for the images.
        pipeline: how they are prepared.
        blocks: as in :func:`features.block_features`.
        amp: whether it encodes in bfloat16.
    """
    images = hashlib.sha256()
    for i in range(len(dataset)):
        path = Path(dataset.get_data_info(i)['img_path'])
        stat = path.stat()
        name = path.relative_to(dataset.img_prefix)
        images.update(f'{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n'.encode())
    return dict(
        version=VERSION,
        weights=content,
        arch=dict(encoder.arch_settings),
        img_size=list(encoder.img_size),
        blocks=list(blocks),
        amp=amp,
        images=images.hexdigest(),
        pipeline=str(pipeline),
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        to_rgb=preprocessor.to_rgb,
    )
