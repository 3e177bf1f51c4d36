"""Images per second and core of pre-training pipelines, alternately in one process.

    python -m benchmarks.loader --out benchmarks/results/NAME.json

The files are crops of scikit-image's photographs, 500x375, JPEG of quality 90: the usual size of an
ImageNet image. Timed is what a worker of the data loader does: from an index to a batch, one
thread, files in the page cache. Peers: mmpretrain's default pre-training pipeline on its own
dataset, and our transforms one by one. Every round times each once; ratios are taken round by
round. The time is the process's CPU time, so that what else runs on the machine counts less.
"""

import argparse
import importlib.resources
import io
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch.utils.data import default_collate

from mirl_mm.datasets.packed.writing import pack_images
from mirl_mm.demo.scenes import PHOTOGRAPHS
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

CROP = dict(scale=224, crop_ratio_range=(0.2, 1.0))
PILLOW = dict(type='RandomResizedCrop', backend='pillow', interpolation='bicubic', **CROP)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackInputs')
FAST = [dict(type='LoadRandomResizedCrop', flip_prob=0.5, **CROP), PACK]


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> float:
    """Write `count` JPEGs of (width, height); returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    data = importlib.resources.files('skimage') / 'data'
    sources = [Image.open(io.BytesIO((data / n).read_bytes())).convert('RGB') for n in PHOTOGRAPHS]
    written = 0
    for i in range(count):
        source = sources[i % len(sources)]
        zoom = rng.uniform(0.6, 1) * min(source.width / size[0], source.height / size[1])
        width, height = zoom * size[0], zoom * size[1]
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        file = folder / f'{i:04d}.jpg'
        source.resize(size, Image.Resampling.BICUBIC, box=box).save(file, quality=90)
        written += file.stat().st_size
    return written / count


def datasets(folder: Path, packed: Path) -> dict[str, torch.utils.data.Dataset]:
    """The pipelines by name, each on the dataset it is used with."""
    init_default_scope('mmpretrain')
    ours = dict(type='UnlabelledImages', data_root=str(folder))
    load = dict(type='LoadImageFromFile')
    configs = {
        'mmpretrain': dict(
            type='CustomDataset',
            data_root=str(folder),
            with_label=False,
            pipeline=[load, PILLOW, FLIP, PACK],
        ),
        'one by one': dict(ours, pipeline=[dict(type='LoadAnyImage'), PILLOW, FLIP, PACK]),
        'ours': dict(ours, pipeline=FAST),
        'ours, packed': dict(ours, data_root=f'packed://{packed}', pipeline=FAST),
    }
    return {name: DATASETS.build(cfg) for name, cfg in configs.items()}


def seconds(dataset: torch.utils.data.Dataset, seed: int, batch: int) -> float:
    """CPU time of one pass."""
    np.random.seed(seed)
    started = time.process_time()
    for first in range(0, len(dataset), batch):
        default_inputs([dataset[i] for i in range(first, min(first + batch, len(dataset)))])
    return time.process_time() - started


def default_inputs(samples: list[dict]) -> torch.Tensor:
    return default_collate([sample['inputs'] for sample in samples])


def pixel_difference(ours: torch.utils.data.Dataset, theirs: torch.utils.data.Dataset) -> dict:
    """Of the same draws, in levels of 255."""
    both = []
    for dataset in (ours, theirs):
        np.random.seed(0)
        both.append(torch.stack([dataset[i]['inputs'] for i in range(len(dataset))]).int())
    moved = (both[0] - both[1]).abs()
    return dict(max=int(moved.max()), mean=round(moved.float().mean().item(), 4))


def main() -> None:
    parser = argparse.ArgumentParser(description='Images per second and core of pipelines.')
    parser.add_argument('--images', type=int, default=128)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, packed = Path(temporary) / 'images', Path(temporary) / 'packed'
        folder.mkdir()
        size = write_pictures(folder, args.images)
        pack_images(folder, packed)
        built = datasets(folder, packed)
        rates: dict[str, list[float]] = {name: [] for name in built}
        for r in range(args.rounds + 1):
            for name, dataset in built.items():
                spent = seconds(dataset, r, args.batch)
                if r:  # the first round warms up
                    rates[name].append(round(args.images / spent, 1))
        moved = pixel_difference(built['ours'], built['mmpretrain'])
    ratios = {
        name: [round(a / b, 3) for a, b in zip(rates[name], rates['mmpretrain'], strict=True)]
        for name in rates
        if name != 'mmpretrain'
    }
    for name, values in rates.items():
        print(f'{name:<14} {statistics.median(values):7.1f} images/s and core')
    for name, values in ratios.items():
        spread = f'{min(values):.2f} to {max(values):.2f}'
        print(f'{name} / mmpretrain: median {statistics.median(values):.2f}, {spread}')
    print(f'ours and mmpretrain differ by {moved["max"]} levels at most, mean {moved["mean"]}')
    if args.out:
        config = {key: value for key, value in vars(args).items() if key != 'out'}
        write_json(
            args.out,
            dict(
                environment(),
                config=config | dict(bytes_per_image=round(size)),
                images_per_second_and_core=rates,
                medians={name: statistics.median(values) for name, values in rates.items()},
                ratios=ratios,
                pixel_difference=moved,
            ),
        )


if __name__ == '__main__':
    main()
