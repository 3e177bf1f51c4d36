"""The OpenMMLab libraries: whether those of a task are there, and what they do too much of."""

import errno
import logging
import os
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from traceback import extract_tb

import mmengine.logging
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModule
from mmengine.visualization import LocalVisBackend

from .errors import UserError

# By default_scope: what a light environment lacks. MMSegmentation does without mmcv's ops.
DENSE = dict(mmdet=('mmdet', 'mmcv.ops'), mmseg=('mmseg',))
TEXTS: dict[str, str] = {}  # of the last config that was asked for, by its content


def import_mmpretrain() -> None:
    """Exit with one line where mmpretrain breaks beside transformers.

    Its multimodal models come wherever transformers and pycocotools are installed: 4.49 suits every
    mmpretrain, 4.57 some, 5 none.
    """
    try:
        import_module('mmpretrain.models')
    except (ImportError, TypeError) as error:
        if not any('multimodal' in frame.filename for frame in extract_tb(error.__traceback__)):
            raise
        fault = f'mmpretrain breaks beside transformers {version("transformers")} ({error})'
        sys.exit(f"error: {fault}; pip install 'transformers<4.50', or pip uninstall transformers")


def check_libraries(scope: str | None) -> None:
    """UserError where a library of a ``default_scope`` cannot be imported."""
    for name in DENSE.get(scope, ()):
        try:
            import_module(name)
        except ImportError as error:
            lacks = f'a model of {scope} needs {name}, which cannot be imported ({error})'
            how = '"make setup" (without LIGHT) installs it in .venv; by hand: docs/install.md'
            raise UserError(f'{lacks}; {how}') from error


def log(msg: object, logger: object = None, level: int = logging.INFO) -> None:
    """MMEngine's print_log, which prints debug messages that name no logger ("OneDL")."""
    quiet = logger is None and level <= logging.DEBUG
    print_log(msg, logging.getLogger(__name__) if quiet else logger, level)


def list_starts(module: BaseModule, dump=BaseModule._dump_init_info) -> None:
    """How each parameter began, in log files; without one MMEngine fills the terminal with it."""
    if any(isinstance(h, logging.FileHandler) for h in MMLogger.get_current_instance().handlers):
        dump(module)


def pretty_text(config: Config, form=Config.pretty_text.fget) -> str:
    """MMEngine's text of a config, formed once: logs and every checkpoint ask for it.

    Forming it takes 0.1 s of a pre-training's config and up to a second of a detector's.
    """
    content = repr((config.to_dict(), config._format_python_code))
    if content not in TEXTS:
        TEXTS.clear()
        TEXTS[content] = form(config)
    return TEXTS[content]


def dump_scalars(
    backend: LocalVisBackend, scalars: dict, path: str, form: str, dump=LocalVisBackend._dump
) -> None:
    """A line of scalars, whole or not at all; where the disk is full, the run goes on without."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    try:
        dump(backend, scalars, path, form)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if os.path.exists(path):
            os.truncate(path, size)
        said = f'could not write a line of {path} ({error}); the run goes on'
        print_log(said, 'current', logging.WARNING)


mmengine.logging.print_log, BaseModule._dump_init_info = log, list_starts
LocalVisBackend._dump = dump_scalars
Config.pretty_text = property(pretty_text)
# What needs the op says so itself, CocoMetric does without faster_coco_eval, a visualizer without
# a folder, as of MMSegmentation's inferencer, is there to draw and not to store, and UperNet's
# losses have that default in mmseg's own recipes.
for said in (
    'Fail to import ``Multi',
    'faster_coco_eval is not',
    'Failed to add .*LocalVisBackend',
    'Default ``avg_non_ignore`` is',
):
    warnings.filterwarnings('ignore', said)
import_mmpretrain()
