"""Train a model: ``python tools/train.py CONFIG``."""

import argparse
import sys

from mmengine.config import DictAction

from mirl_mm.engine.adapt import LAUNCHERS
from mirl_mm.engine.launch import build_runner, training_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help="logs and checkpoints (the config's, else work_dirs/<config stem>)",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='auto or PATH',
        help='continue from a checkpoint; auto, also without a value, takes the '
        "work dir's last one and starts anew where there is none",
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: bfloat16, or float16 where the GPU lacks it',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to '
        'batch x processes x accumulation',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, as in train_dataloader.batch_size=64',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        cfg, notes = training_config(**vars(args))
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    build_runner(cfg, notes).train()


if __name__ == '__main__':
    main()
