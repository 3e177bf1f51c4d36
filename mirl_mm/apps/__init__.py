"""What tools call: a file an app. Here are the arguments that several tools have."""

import re
from argparse import ArgumentError, ArgumentParser

from mmengine.config import DictAction
from torch.utils._pytree import tree_map

from mirl_mm.engine.machine import LAUNCHERS
from mirl_mm.errors import UserError

OVERRIDE = 'settings that override the config'
SPACE = '\0'  # stands for one inside a value, since MMEngine's action drops spaces


class SpacedAction(DictAction):
    """MMEngine's KEY=VALUE, without the loss of spaces inside names: ``a b.jpg``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if wrong := [value for value in values if '=' not in value]:
            raise ArgumentError(self, f'{wrong[0]!r} is no KEY=VALUE (quote values with spaces)')
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> object:
        value = val.strip()
        if value[:1] in ('(', '[') or ',' in value:
            value = re.sub(r'(?<=[\[(,])\s+|\s+(?=[\]),])', '', value)
        try:
            found = DictAction._parse_iterable(value.replace(' ', SPACE))
        except AssertionError as error:
            raise UserError(f'{val!r}: {error}'.replace(SPACE, ' ')) from error
        return tree_map(lambda x: x.replace(SPACE, ' ') if isinstance(x, str) else x, found)


def add_run_options(parser: ArgumentParser, split: str) -> None:
    """``--data``, ``--work-dir``, ``--launcher`` and ``--cfg-options`` of a run."""
    parser.add_argument('--data', metavar='PATH', help='data of your own (docs/your-data.md)')
    words = "logs, checkpoints and results (the config's, else work_dirs/<config stem>)"
    parser.add_argument('--work-dir', metavar='DIR', help=words)
    add_launcher(parser)
    add_cfg_options(parser, f'{OVERRIDE}, as in {split}_dataloader.batch_size=64')


def add_launcher(parser: ArgumentParser) -> None:
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')


def add_cfg_options(parser: ArgumentParser, words=OVERRIDE, flag='--cfg-options') -> None:
    parser.add_argument(flag, nargs='+', action=SpacedAction, metavar='KEY=VALUE', help=words)
