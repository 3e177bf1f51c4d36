"""Test a checkpoint: ``python tools/test.py CONFIG CKPT``."""

import argparse

from mirl_mm.apps import add_run_options
from mirl_mm.engine.launch import build_runner, testing_config
from mirl_mm.engine.stopping import leave_group
from mirl_mm.engine.tta import use_tta
from mirl_mm.errors import one_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a checkpoint.')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint file or address')
    parser.add_argument(
        '--tta', action='store_true', help="merge several views of each image (the config's or two)"
    )
    add_run_options(parser, 'test')
    return parser.parse_args()


def main() -> None:
    options = vars(parse_args())
    tta = options.pop('tta')
    cfg, notes = testing_config(**options)
    if tta:
        notes += use_tta(cfg)
    build_runner(cfg, notes).test()
    leave_group()


if __name__ == '__main__':
    one_line(main)
