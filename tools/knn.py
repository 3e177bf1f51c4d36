"""k-NN accuracy of a frozen encoder: ``python tools/knn.py CONFIG CKPT``."""

import argparse

from mirl_mm.apps import add_cfg_options, add_launcher
from mirl_mm.apps.probes import run_knn
from mirl_mm.errors import one_line
from mirl_mm.measure.features import Loading
from mirl_mm.measure.knn import TEMPERATURE


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='k-NN accuracy of a frozen encoder, from its cls token and its average. On '
        'several GPUs: torchrun --nproc_per_node GPUS tools/knn.py ... --launcher pytorch'
    )
    parser.add_argument('config', metavar='CONFIG', help='config with the arch of the encoder')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint, or random: before training')
    parser.add_argument(
        '--train', metavar='FOLDER', help="images at FOLDER/<class> that vote (the config's)"
    )
    parser.add_argument(
        '--val', metavar='FOLDER', help="images at FOLDER/<class> to classify (the config's)"
    )
    parser.add_argument(
        '--k', type=int, nargs='+', help='numbers of neighbours (10 20 100 200, as far as they fit)'
    )
    parser.add_argument(
        '--temperature', type=float, default=TEMPERATURE, help='of the votes (0.07)'
    )
    each = 'images of each class, evenly spread'
    parser.add_argument('--limit', type=int, metavar='N', help=f'at most N training {each}')
    parser.add_argument('--val-limit', type=int, metavar='N', help=f'at most N validation {each}')
    parser.add_argument('--out', metavar='FILE', help='write the result as JSON')
    parser.add_argument('--batch-size', type=int, default=256, help='of one process (256)')
    parser.add_argument('--workers', type=int, default=4, help='of one process (4)')
    parser.add_argument('--amp', action='store_true', help='encode in bfloat16')
    add_launcher(parser)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    run_knn(
        args.config,
        args.checkpoint,
        args.train,
        args.val,
        args.k,
        args.temperature,
        args.limit,
        args.out,
        Loading(args.batch_size, args.workers, args.amp),
        args.launcher,
        args.cfg_options,
        args.val_limit,
    )


if __name__ == '__main__':
    one_line(main)
