"""Train a model: ``python tools/train.py CONFIG``."""

import argparse
import sys

from mmengine.config import DictAction

from mirl_mm.engine.hooks import NonFiniteError
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.engine.machine import LAUNCHERS
from mirl_mm.engine.resume import ResumeError
from mirl_mm.errors import CheckpointError


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
        const='last',
        metavar='auto or PATH',
        help="continue from the work dir's last checkpoint, or from PATH (a checkpoint or a work "
        'dir); auto starts anew where there is none, for a job that may be started again',
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
    try:
        build_runner(cfg, notes).train()
    except (CheckpointError, NonFiniteError, ResumeError) as error:
        if args.launcher != 'none':
            raise  # ends this process at once, and the job
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
