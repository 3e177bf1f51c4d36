"""Does continued pre-training beat starting anew, at equal steps on the new images?

    python -m benchmarks.continued --work-dir DIR --out benchmarks/results/NAME.json

A model is pre-trained on one half of Tiny-ImageNet-100's classes. On the other half it goes on,
whole or its encoder alone under new decoders, with or without the warm-up of the decoders, beside
one that starts anew; all by tools/train.py's own means, as many steps at the same rate. Measured on
held-out images of the second half: the masked error, and 20-NN of the encoder.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from benchmarks.images import Labelled, normalised, read_folders
from benchmarks.markdown import markdown
from benchmarks.study.measure import held_out_error
from benchmarks.timing import add_out, save
from mirl_mm.apps.reconstruct import load_model
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.measure.features import final_features
from mirl_mm.measure.knn import knn_accuracy

CONFIG = Path(__file__).parent / 'study/mirl_tiny.py'
SIDE, K, MEMORY = 64, 20, 7  # pixels, neighbours, every so-many-th training image among them
WAYS = {
    'start': 'nothing; on the old classes alone',
    'anew': 'nothing',
    'whole': 'encoder and decoders',
    'encoder': 'the encoder, whose rate rises over a fifth of the run',
    'encoder, at once': 'the encoder, at the full rate',
}
START = dict(type='Pretrained', prefix='backbone.')


def schedule(epochs: float, rise: float = 0) -> list[dict]:
    """A tenth of warm-up, a cosine; in ``rise`` epochs the encoder's rate comes up."""
    shared, warm_up = dict(by_epoch=True, convert_to_iter_based=True), epochs / 10
    warm = dict(shared, start_factor=1e-9, begin=0)
    part = [dict(warm, type='PartLinearLR', end=rise)] if rise else []
    cosine = dict(begin=warm_up, end=epochs, T_max=epochs - warm_up, eta_min=0.0)
    return [
        *part,
        dict(warm, type='LinearLR', end=warm_up),
        dict(shared, **cosine, type='CosineAnnealingLR'),
    ]


def train(work_dir: Path, images: Path, args: argparse.Namespace, seed: int, **options) -> Path:
    """Train by the settings; the last checkpoint."""
    epochs, rise = options.pop('epochs'), options.pop('rise', 0)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': f'{args.data}/',
            'train_dataloader.dataset.ann_file': str(images.resolve()),
            'train_cfg.max_epochs': epochs,
            'randomness.seed': seed,
            'default_hooks.checkpoint.max_keep_ckpts': 1,
            'custom_hooks': [dict(type='ExportEncoderHook')],
            **{name.replace('__', '.'): value for name, value in options.items()},
        }
    )
    cfg.param_scheduler = schedule(epochs, rise)
    if rise:
        cfg.optim_wrapper.paramwise_cfg.part = 'backbone'
    cfg.experiment_name = f'{work_dir.parent.name}-{work_dir.name}'
    last = work_dir / f'epoch_{epochs}.pth'
    if not last.is_file():
        work_dir.mkdir(parents=True, exist_ok=True)
        cfg.dump(work_dir / 'config.py')
        build_runner(*training_config(str(work_dir / 'config.py'), str(work_dir))).train()
    return last


@torch.no_grad()
def features(vit: torch.nn.Module, images: Tensor) -> Tensor:
    """Average of the patch tokens, [N, D]."""
    return torch.cat([final_features(vit, normalised(part))[:, 1] for part in images.split(250)])


def measured(config: Path, checkpoint: Path, memory: Labelled, held: Labelled) -> dict:
    """Held-out error and 20-NN of a checkpoint."""
    model = load_model(Config.fromfile(config), str(checkpoint))
    rows = features(model.backbone, memory.images), memory.labels
    queries = features(model.backbone, held.images), held.labels
    found = knn_accuracy(*rows, *queries, ks=(K,))[K]
    return dict(error=round(held_out_error(model, held.images), 4), knn=round(found, 2))


def halves(data: Path, folder: Path) -> list[Path]:
    """Lists of the training images of every other class, written to a folder."""
    classes, lists = sorted(path.name for path in (data / 'train').iterdir()), []
    for i in range(2):
        files = sorted(f for c in classes[i::2] for f in (data / 'train' / c).iterdir())
        lists.append(folder / f'half_{i}.txt')
        lists[i].write_text('\n'.join(str(f.relative_to(data / 'train')) for f in files) + '\n')
    return lists


def runs_of(seed: int, args: argparse.Namespace, lists: list[Path]) -> Iterator[tuple[str, Path]]:
    """The starting point and what comes of it, by name."""
    folder, more = args.work_dir / f'seed_{seed}', dict(epochs=args.epochs)
    start = train(folder / 'start', lists[0], args, seed, epochs=args.first)
    yield 'start', start
    encoder = START | dict(checkpoint=str(folder / 'start/encoder.pth'))
    new = dict(more, model__backbone__init_cfg=encoder)
    settings = {
        'anew': more,
        'whole': dict(more, load_from=str(start)),
        'encoder': dict(new, rise=args.epochs / 5),
        'encoder, at once': new,
    }
    for i, (name, options) in enumerate(settings.items()):
        where = folder / name.replace(', ', '-').replace(' ', '-')
        yield name, train(where, lists[1], args, 10 * seed + i, **options)


def spread(rows: list[dict]) -> dict:
    """Mean and standard deviation over seeds."""
    found = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        found[key] = dict(mean=round(statistics.mean(values), 4), deviation=round(deviation, 4))
    return found


def table(result: dict) -> str:
    """Markdown: a row for every way to go on."""

    def cell(found: dict, digits: int) -> str:
        return '{mean:.{0}f} ± {deviation:.{0}f}'.format(digits, **found)

    rows = [
        [name, WAYS[name], cell(found['error'], 3), cell(found['knn'], 1)]
        for name, found in result['summary'].items()
    ]
    return markdown(['run', 'starts from', 'held-out error', '20-NN, %'], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description='Continued pre-training beside starting anew.')
    parser.add_argument('--data', type=Path, default=Path('data/tiny_imagenet_100'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/continued'))
    parser.add_argument('--first', type=int, default=2, help='epochs on the first half')
    parser.add_argument('--epochs', type=int, default=1, help='epochs on the second half')
    parser.add_argument('--seeds', type=int, default=3)
    add_out(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    lists = halves(args.data, args.work_dir)
    sets = [read_folders(args.data / split, SIDE, 'cpu') for split in ('train', 'val')]
    memory, held = (Labelled(*(x[each.labels % 2 == 1] for x in each)) for each in sets)
    memory = Labelled(*(x[::MEMORY] for x in memory))
    found: dict[str, list[dict]] = {}
    for seed in range(args.seeds):
        for name, checkpoint in runs_of(seed, args, lists):
            row = measured(checkpoint.parent / 'config.py', checkpoint, memory, held)
            found.setdefault(name, []).append(row)
            print(f'seed {seed} {name}: {row}', flush=True)
    del args.data, args.work_dir  # where, on this machine
    save(args, dict(runs=found, summary={name: spread(rows) for name, rows in found.items()}))


if __name__ == '__main__':
    main()
