"""What tools call: a file an app. Here are the arguments that several tools have."""

from argparse import ArgumentParser

from mmengine.config import DictAction

from mirl_mm.engine.machine import LAUNCHERS

OVERRIDE = 'settings that override the config'


def add_run_options(parser: ArgumentParser, split: str) -> None:
    """``--work-dir``, ``--launcher`` and ``--cfg-options`` of a run."""
    words = "logs, checkpoints and results (the config's, else work_dirs/<config stem>)"
    parser.add_argument('--work-dir', metavar='DIR', help=words)
    add_launcher(parser)
    add_cfg_options(parser, f'{OVERRIDE}, as in {split}_dataloader.batch_size=64')


def add_launcher(parser: ArgumentParser) -> None:
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')


def add_cfg_options(parser: ArgumentParser, words=OVERRIDE, flag='--cfg-options') -> None:
    parser.add_argument(flag, nargs='+', action=DictAction, metavar='KEY=VALUE', help=words)
