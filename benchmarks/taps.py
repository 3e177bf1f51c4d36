"""Do the blocks that the segment curve names make a better segmentor than the usual ones?

    python -m benchmarks.taps CHECKPOINT [--frozen] --out benchmarks/results/taps_cpu.json

An encoder of the study's config (48 blocks of 64) is probed on CamVid at half size, training scenes
-> validation scenes. Then UperNet is trained behind it, all of it or its heads alone, on training
scenes: tapped at the ends of the quarters of the depth, at the four quarters up to the best block
of the curve, and at the four best blocks. Tested once, at the end, on scenes that the curve has not
seen.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from benchmarks.study.measure import EXTENT
from benchmarks.timing import add_out, save
from mirl_mm.apps.scenes import read_scenes
from mirl_mm.engine.launch import build_runner, load_config, training_config
from mirl_mm.measure.cached import weights_of
from mirl_mm.measure.curves import Curve
from mirl_mm.measure.depth import Probing, probed_blocks
from mirl_mm.measure.features import Loading, load_encoder, preprocessor_of
from mirl_mm.measure.segment import segment_curves

STUDY = Path(__file__).parent / 'study'
DEPTH, WIDTH, SIDE = 48, 64, 64
ARCH = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=2, feedforward_channels=4 * WIDTH)


def probed(args: argparse.Namespace, blocks: Sequence[int]) -> Curve:
    """The segment curve, of a third of the training scenes -> half of the validation scenes."""
    depth = {'model.backbone.arch.num_layers': DEPTH}
    cfg = load_config(str(STUDY / 'mirl_tiny.py'), depth)
    vit = load_encoder(cfg, args.checkpoint)
    scenes = read_scenes(args.scenes, vit, EXTENT)
    scenes = scenes._replace(train=scenes.train[::3], val=scenes.val[::2])
    how = Probing(blocks, (), (), preprocessor_of(cfg), Loading(num_workers=0))
    kept = args.work_dir / 'cache'
    return segment_curves(vit, scenes, how, kept, weights_of(args.checkpoint), 'CamVid')[0]


def taps_of(curve: Curve, blocks: Sequence[int]) -> dict[str, list[int]]:
    """0-based blocks to tap, by how they were chosen."""
    order = curve.values.argsort(descending=True).tolist()
    best = blocks[order[0]] + 1
    return {
        'quarters of the depth': [DEPTH * i // 4 - 1 for i in range(1, 5)],
        'quarters up to the best block': [best * i // 4 - 1 for i in range(1, 5)],
        'the four best blocks': sorted(blocks[i] for i in order[:4]),
    }


def settings_of(taps: Sequence[int], seed: int, args: argparse.Namespace) -> dict:
    """Of upernet_camvid.py: this encoder, scenes at half size, crops of 64 px."""
    size, steps = dict(type='Resize', scale=EXTENT[::-1], keep_ratio=False), args.iterations
    read = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    train = [
        *read,
        size,
        dict(type='RandomCrop', crop_size=(SIDE, SIDE), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackSegInputs'),
    ]
    heads = dict(in_channels=[WIDTH] * 4), dict(in_channels=WIDTH)
    weights = dict(type='Pretrained', checkpoint=args.checkpoint, prefix='backbone.')
    backbone = dict(arch=ARCH, img_size=SIDE, patch_size=8, out_indices=taps, init_cfg=weights)
    backbone['frozen_stages'] = DEPTH if args.frozen else -1
    model = dict(backbone=backbone, neck=dict(in_channels=WIDTH))
    model |= dict(data_preprocessor=dict(size=(SIDE, SIDE)))
    model |= dict(decode_head=heads[0], auxiliary_head=heads[1])
    scheduler = [
        dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=steps // 20),
        dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=steps // 20, end=steps),
    ]
    return {
        'model': model,
        'train_dataloader.dataset': dict(data_root=args.scenes, pipeline=train),
        'test_dataloader.dataset': dict(
            data_root=args.scenes,
            pipeline=[read[0], size, read[1], dict(type='PackSegInputs')],  # tested at full size
            indices=list(range(0, 233, 3)),  # a third of the test scenes
        ),
        'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.97,
        'param_scheduler': scheduler,
        'train_cfg.max_iters': steps,
        'default_hooks.checkpoint.interval': steps,
        'default_hooks.summary.show': False,
        'randomness.seed': seed,
    }


def tested(folder: Path, taps: Sequence[int], seed: int, args: argparse.Namespace) -> float:
    """mIoU of UperNet with these taps, in percent."""
    cfg = Config.fromfile(STUDY / 'upernet_camvid.py')
    for key, value in settings_of(taps, seed, args).items():
        cfg.merge_from_dict({key: value})
    cfg.experiment_name = folder.name
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'config.py')
    runner = build_runner(*training_config(str(folder / 'config.py'), str(folder)))
    runner.train()
    return round(float(runner.test()['mIoU']), 2)


def summary_of(runs: dict[str, list[float]]) -> dict:
    """Mean and standard deviation of each way over seeds, and of what it gains on the first."""
    first, found = next(iter(runs.values())), {}
    for name, values in runs.items():
        gains = [value - other for value, other in zip(values, first, strict=False)]
        found[name] = {
            key: dict(mean=round(statistics.mean(x), 2), deviation=round(statistics.stdev(x), 2))
            for key, x in (('miou', values), ('gain', gains))
            if len(x) > 1
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='Taps by the segment curve beside the usual ones.')
    parser.add_argument('checkpoint', help='of benchmarks/study/mirl_tiny.py with 48 blocks')
    parser.add_argument('--scenes', default='data/camvid', help='CamVid')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/taps'))
    parser.add_argument('--iterations', type=int, default=120)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--every', type=int, default=3, help='blocks, to the last')
    parser.add_argument('--frozen', action='store_true', help='the encoder; heads alone learn')
    add_out(parser)
    args = parser.parse_args()
    args.checkpoint, blocks = str(Path(args.checkpoint).resolve()), probed_blocks(DEPTH, args.every)
    curve, runs = probed(args, blocks), {}
    taps = taps_of(curve, blocks)
    rows = zip(blocks, curve.values.tolist(), curve.errors.tolist(), strict=True)
    found = [dict(block=block + 1, miou=round(x, 2), error=round(e, 2)) for block, x, e in rows]
    result = dict(curve=found, best=curve.summary(blocks), taps=taps, runs=runs)
    print(result, flush=True)
    for seed in range(args.seeds):
        for name, each in taps.items():
            folder = args.work_dir / f'{name.replace(" ", "-")}_{seed}{"_frozen" * args.frozen}'
            runs.setdefault(name, []).append(tested(folder, each, seed, args))
            print(f'seed {seed}, {name} {each}: {runs[name][-1]}', flush=True)
    result['summary'] = summary_of(runs)
    del args.checkpoint, args.scenes, args.work_dir  # where, on this machine
    save(args, result)


if __name__ == '__main__':
    main()
