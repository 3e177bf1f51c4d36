"""Draw what a trained model sees: ``python tools/predict.py CONFIG CKPT PICTURES``."""

import argparse

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.predict import predict_pictures
from mirl_mm.errors import one_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw boxes and masks (a detector), the classes of the pixels (a segmentor) or '
        'the label (a classifier).'
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a training run')
    parser.add_argument('pictures', metavar='IMAGE_OR_FOLDER', help='any images')
    parser.add_argument(
        '--out', metavar='DIR', default='predictions', help='folder of the drawings (predictions)'
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='of a detector, the lowest score drawn (0.3)'
    )
    add_cfg_options(parser, 'settings that override the config, as in model.test_cfg.mode=whole')
    return parser.parse_args()


def main() -> None:
    for line in predict_pictures(**vars(parse_args())):
        print(line, flush=True)


if __name__ == '__main__':
    one_line(main)
