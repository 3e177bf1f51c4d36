"""Say what a run takes before it is started: ``python tools/plan.py CONFIG --gpus 8``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.plan import plan
from mirl_mm.apps.plan_text import describe
from mirl_mm.errors import one_line, visible
from mirl_mm.measure.cost import GPUS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Parameters, operations, memory, batch and time of a training run.'
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('--gpus', type=int, default=8, help='over all nodes (%(default)s)')
    parser.add_argument('--gpu', default='A100', help=f'one of {", ".join(GPUS)} (%(default)s)')
    parser.add_argument(
        '--memory-gb', type=float, help="of each GPU, in 10^9 bytes (its data sheet's)"
    )
    parser.add_argument(
        '--throughput',
        type=float,
        metavar='RATE',
        help='measured images per second and GPU (without it, the most that the GPU can do)',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="of a detector's or segmentor's training images, pixels (the config's)",
    )
    parser.add_argument(
        '--images', type=int, help="in an epoch (as many as the config's folder has; ImageNet-1k's)"
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    planned = plan(**vars(args))
    print(visible(f'Plan of {args.config}'))
    print(visible(describe(planned, args.config, args.cfg_options)))


if __name__ == '__main__':
    one_line(main)
