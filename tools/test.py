"""Test a checkpoint: ``python tools/test.py CONFIG CKPT``."""

import argparse
import sys

from mmengine.config import DictAction

from mirl_mm.engine.launch import build_runner, testing_config
from mirl_mm.engine.machine import LAUNCHERS
from mirl_mm.errors import CheckpointError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a checkpoint.')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint file or address')
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help="logs and results (the config's, else work_dirs/<config stem>)",
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, as in test_dataloader.batch_size=64',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        cfg, notes = testing_config(**vars(args))
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    try:
        build_runner(cfg, notes).test()
    except CheckpointError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
