"""Probe every n-th block: ``python tools/probe_depth.py CONFIG CKPT [CKPT2 ...] --train DIR``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.probes import probe_depth
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import one_line
from mirl_mm.measure.features import POOLS, Loading


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='k-NN and linear accuracy behind every n-th block of one or more checkpoints.'
    )
    parser.add_argument('config', metavar='CONFIG', help='config with the arch of the encoder')
    parser.add_argument(
        'checkpoints', metavar='CKPT', nargs='+', help='checkpoint, or random: before training'
    )
    parser.add_argument('--train', required=True, metavar='FOLDER', help='images at FOLDER/<class>')
    parser.add_argument('--val', required=True, metavar='FOLDER', help='images at FOLDER/<class>')
    parser.add_argument(
        '--every', type=int, default=1, metavar='N', help='probe every N-th block (1)'
    )
    parser.add_argument('--limit', type=int, metavar='N', help='at most N images of each class')
    parser.add_argument(
        '--out',
        default='work_dirs/probe_depth',
        metavar='DIR',
        help='results and cached features (work_dirs/probe_depth); a run that was stopped goes on',
    )
    parser.add_argument(
        '--labels', nargs='+', metavar='NAME', help='names of the checkpoints (folder/file)'
    )
    parser.add_argument(
        '--pools', nargs='+', choices=POOLS, default=['avg'], help='cls token, average of patches'
    )
    parser.add_argument('--k', type=int, default=20, help='neighbours of the k-NN probe (20)')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--amp', action='store_true', help='encode in bfloat16')
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
    )
    print(f'written: {args.out}/depth.csv, depth.json, depth.png')


if __name__ == '__main__':
    one_line(main)
