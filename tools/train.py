"""Train a model: ``python tools/train.py CONFIG``."""

import argparse

from mirl_mm.apps import add_run_options
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.engine.stopping import leave_group
from mirl_mm.errors import one_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', metavar='CONFIG', help='config file')
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
    add_run_options(parser, 'train')
    return parser.parse_args()


def main() -> None:
    cfg, notes = training_config(**vars(parse_args()))
    try:
        build_runner(cfg, notes).train()
    finally:
        leave_group()


if __name__ == '__main__':
    one_line(main)
