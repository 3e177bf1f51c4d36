"""Pre-train a small deep ViT with MIRL, then detect and segment: ``python tools/demo.py``."""

import argparse
from pathlib import Path

from mirl_mm.apps import add_cfg_options
from mirl_mm.demo import UNLABELLED, run_demo
from mirl_mm.demo.scene_set import write_bands, write_scenes
from mirl_mm.errors import UserError, one_line

CONFIGS = Path(__file__).parents[1] / 'configs/demo'
PRE_TRAINING = str(CONFIGS / 'mirl_12-blocks.py')
TRANSFER = dict(
    detection=str(CONFIGS / 'mask-rcnn_12-blocks.py'),
    segmentation=str(CONFIGS / 'upernet_12-blocks.py'),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Pre-train a small deep ViT with MIRL; detect and segment with it.'
    )
    parser.add_argument(
        '--data',
        metavar='FOLDER',
        help='your own pictures instead of the scenes; without labels: pre-training alone',
    )
    parser.add_argument('--work-dir', metavar='DIR', default='work_dirs/demo')
    parser.add_argument('--scenes-dir', metavar='DIR', default='data/scenes')
    parser.add_argument('--scenes-only', action='store_true', help='write the scenes and stop')
    parser.add_argument(
        '--bands',
        action='store_true',
        help='with --scenes-only: also as TIFF of 5 channels, nearness and heat beside colour',
    )
    add_cfg_options(parser, 'settings of pre-training that override the config')
    add_cfg_options(
        parser,
        'likewise of detection and segmentation, with the encoder and from scratch',
        flag='--transfer-options',
    )
    args = parser.parse_args()
    if args.scenes_only:
        scenes = write_scenes(args.scenes_dir, num_unlabelled=UNLABELLED)
        print(f'scenes in {scenes.root}{f", {write_bands(scenes)}" if args.bands else ""}')
        return
    if args.bands:
        raise UserError('--bands is for --scenes-only: the demo is of three channels')
    run_demo(
        PRE_TRAINING,
        TRANSFER,
        args.data,
        args.work_dir,
        args.scenes_dir,
        args.cfg_options,
        args.transfer_options,
    )


if __name__ == '__main__':
    one_line(main)
