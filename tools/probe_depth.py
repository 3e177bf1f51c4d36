"""Which block knows most: ``python tools/probe_depth.py CONFIG CKPT [CKPT2 ...] --train DIR``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.depth import TAKES, probe_depth
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import one_line
from mirl_mm.measure.features import POOLS, Loading


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='What one or more checkpoints know behind every n-th block, task by task: '
        'classify (k-NN and linear accuracy), segment (mIoU of a linear classifier of patches), '
        'paint (error of small decoders on masked images), rank (effective rank, without labels).'
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config with the arch of the encoder')
    add('checkpoints', metavar='CKPT', nargs='+', help='checkpoint, or random: before training')
    add(
        '--tasks',
        nargs='+',
        choices=list(TAKES),
        default=['classify'],
        help='what to probe (classify)',
    )
    images = 'images at FOLDER/<class> to classify, any to paint'
    add('--train', metavar='FOLDER', help=f'{images}: to fit on')
    add('--val', metavar='FOLDER', help=f'{images}, any for rank: to measure on')
    add('--every', type=int, default=1, metavar='N', help='probe every N-th block (1)')
    each = 'images of each class, evenly spread'
    add('--limit', type=int, metavar='N', help=f'at most N training {each} (classify)')
    add('--val-limit', type=int, metavar='N', help=f'at most N validation {each} (classify)')
    add(
        '--out',
        default='work_dirs/probe_depth',
        metavar='DIR',
        help='results and a cache (work_dirs/probe_depth); a run that was stopped goes on',
    )
    add('--labels', nargs='+', metavar='NAME', help='names of the checkpoints (folder/file)')
    add(
        '--pools',
        nargs='+',
        choices=POOLS,
        help='cls token, average of patches (classify; avg)',
    )
    add('--k', type=int, help='neighbours of the k-NN probe (20)')
    add(
        '--shots',
        type=int,
        nargs='+',
        metavar='N',
        help='classify also with N training images of each class alone, as in 1 2 5 10',
    )
    add('--draws', type=int, metavar='N', help='draws of these images (5)')
    add(
        '--segment-data',
        metavar='CONFIG_OR_FOLDER',
        help="images and masks: an mmseg config's, or a folder (docs/depth.md)",
    )
    add(
        '--segment-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of images as they are segmented',
    )
    add('--paint-steps', type=int, metavar='N', help='of the decoders (2000)')
    add('--batch-size', type=int, default=128)
    add('--workers', type=int, default=4)
    add('--amp', action='store_true', help='encode in bfloat16')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    probe_depth(
        load_config(args.config, args.cfg_options),
        args.checkpoints,
        args.train,
        args.val,
        args.out,
        args.every,
        args.limit,
        args.labels,
        args.pools,
        args.k,
        Loading(args.batch_size, args.workers, args.amp),
        tasks=args.tasks,
        val_limit=args.val_limit,
        shots=args.shots,
        draws=args.draws,
        segment_data=args.segment_data,
        segment_size=args.segment_size and tuple(args.segment_size),
        paint_steps=args.paint_steps,
    )
    print(f'written: {args.out}/depth.csv, depth.json, depth.png')


if __name__ == '__main__':
    one_line(main)
