"""Write a trained model as ONNX or a torch program: ``python tools/export.py CONFIG CKPT OUT``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.export import OPSET, export_model
from mirl_mm.errors import one_line, visible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the encoder of a pre-training, a classifier, a segmentor, or the '
        'encoder and pyramid of a detector as one file. It takes normalised pixels.'
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a training run')
    parser.add_argument(
        'out', metavar='OUT', help='file ending in .onnx, or in .pt2 for a torch.export program'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='pixels of the images; without it any multiples of the patch. Needed for a '
        'segmentor and a detector',
    )
    parser.add_argument('--opset', type=int, help=f'of ONNX ({OPSET})')
    add_cfg_options(parser, 'settings that override the config, as in model.test_cfg.mode=whole')
    return parser.parse_args()


def main() -> None:
    print(visible(export_model(**vars(parse_args()))))


if __name__ == '__main__':
    one_line(main)
