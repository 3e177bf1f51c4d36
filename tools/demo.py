"""Pre-train a small deep ViT with MIRL and look at what it paints: ``python tools/demo.py``."""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from mirl_mm.datasets.scene_set import write_scenes
from mirl_mm.demo import run_demo

CONFIG = Path(__file__).parents[1] / 'configs/demo/mirl_24-blocks.py'


def main() -> None:
    parser = argparse.ArgumentParser(description='Pre-train a small deep ViT with MIRL.')
    parser.add_argument('--data', metavar='FOLDER', help='your own pictures instead of the scenes')
    parser.add_argument('--work-dir', metavar='DIR', default='work_dirs/demo')
    parser.add_argument('--scenes-dir', metavar='DIR', default='data/scenes')
    parser.add_argument('--scenes-only', action='store_true', help='write the scenes and stop')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    try:
        if args.scenes_only:
            print(f'scenes in {write_scenes(args.scenes_dir).root}')
        else:
            run_demo(str(CONFIG), args.data, args.work_dir, args.scenes_dir, args.cfg_options)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
