"""Draw what a pre-trained model paints: ``python tools/reconstruct.py CONFIG CKPT PICTURES``."""

import argparse

from mirl_mm.apps.reconstruct import reconstruct_pictures
from mirl_mm.errors import one_line, visible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw original, masked, and what is painted: of MIRL, every pair of decoders.'
    )
    parser.add_argument('config', metavar='CONFIG', help="config of MIRL or mmpretrain's MAE")
    parser.add_argument(
        'checkpoint', metavar='CKPT', help='whole model in any form, also official Paddle files'
    )
    parser.add_argument('pictures', metavar='IMAGE_OR_FOLDER', help='any images')
    parser.add_argument(
        '--out',
        metavar='PATH',
        default='reconstructions',
        help='folder for a panel per image (the default: reconstructions), or an image file such '
        'as page.png for one page of them all',
    )
    parser.add_argument(
        '--mask-ratio', type=float, help="share of patches to hide (the config's if left out)"
    )
    parser.add_argument(
        '--seed', type=int, default=0, help="decides, with an image's name, what is hidden"
    )
    return parser.parse_args()


def main() -> None:
    for line in reconstruct_pictures(**vars(parse_args())):
        print(visible(line), flush=True)


if __name__ == '__main__':
    one_line(main)
