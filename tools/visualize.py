"""Draw features behind blocks: ``python tools/visualize.py CONFIG CKPT [CKPT2 ...] PICTURES``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.visualize import visualize_pictures
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import one_line, visible
from mirl_mm.pictures.features import WHAT


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw principal components, attention or similarity of the patches behind '
        'blocks of one or more checkpoints: a strip an image, a column a block.'
    )
    parser.add_argument('config', metavar='CONFIG', help='config with the arch of the encoder')
    parser.add_argument(
        'checkpoints', metavar='CKPT', nargs='+', help='checkpoint, or random: before training'
    )
    parser.add_argument('pictures', metavar='IMAGE_OR_FOLDER', help='any images')
    parser.add_argument(
        '--what', nargs='+', choices=WHAT, default=['pca'], help='a row for each of them (pca)'
    )
    parser.add_argument(
        '--blocks',
        nargs='+',
        type=int,
        metavar='N',
        help="counted from 1 (the ends of MIRL's segments; of others the quarters of the depth)",
    )
    parser.add_argument(
        '--patch',
        nargs='+',
        metavar=('ROW COL | cls', ''),
        help='the patch that attends, or is compared, counted from 1; or cls (the middle patch)',
    )
    parser.add_argument(
        '--heads', action='store_true', help='attention of each head, not of their mean'
    )
    parser.add_argument(
        '--labels', nargs='+', metavar='NAME', help='names of the checkpoints (folder/file)'
    )
    parser.add_argument(
        '--size', type=int, metavar='N', help="pixels of the short edge (the encoder's own)"
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        default='visualized',
        help='folder for a strip per image (the default: visualized), or an image file such as '
        'page.png for one page of them all',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    given = vars(parse_args())
    cfg = load_config(given.pop('config'), given.pop('cfg_options'))
    for line in visualize_pictures(cfg, **given):
        print(visible(line), flush=True)


if __name__ == '__main__':
    one_line(main)
