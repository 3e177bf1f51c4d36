"""Arguments that several tools have."""

from argparse import ArgumentParser

from mmengine.config import DictAction

from mirl_mm.engine.machine import LAUNCHERS


def add_run_options(parser: ArgumentParser, split: str) -> None:
    """``--work-dir``, ``--launcher`` and ``--cfg-options`` of a run."""
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help="logs, checkpoints and results (the config's, else work_dirs/<config stem>)",
    )
    add_launcher(parser)
    words = f'settings that override the config, as in {split}_dataloader.batch_size=64'
    add_cfg_options(parser, words)


def add_launcher(parser: ArgumentParser) -> None:
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')


def add_cfg_options(
    parser: ArgumentParser,
    words: str = 'settings that override the config',
    flag: str = '--cfg-options',
) -> None:
    parser.add_argument(flag, nargs='+', action=DictAction, metavar='KEY=VALUE', help=words)
