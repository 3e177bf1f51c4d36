"""Before a classifier is built: are its class folders there, and do they go together?

CheckClassesHook asks the same of the data sets that were loaded, whatever their type. This is a
look at the folders alone, so that a slip in a config costs a second and one line.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from mirl_mm.datasets.class_folders import check_none_empty, check_number, check_same_names
from mirl_mm.errors import UserError

KINDS = ('CustomDataset', 'ImageNet')


def check_folders(cfg: Config, splits: Sequence[str]) -> None:
    """Hold the class folders of a classifier's config against each other and the model.

    Datasets with lists (``ann_file``), on servers or of other types are left alone.

    Args:
        cfg: a whole config.
        splits: of 'train', 'val' and 'test', those that will be loaded.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: it has no class folders, or one without a file; other classes in validation than
            in training; another number of classes in the model.
    """
    if (cfg.get('model') or {}).get('type') != 'ImageClassifier':
        return
    found = {}
    for split in splits:
        settings = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        folder = class_root(settings)
        if folder is not None:
            found[folder] = names_of(folder, f'{split}_dataloader.dataset')
    if not found:
        return
    first, names = next(iter(found.items()))
    for folder, others in found.items():
        check_same_names(names, others, first, folder)
    for part in ('head', 'data_preprocessor'):
        check_number(len(names), first, part, (cfg.model.get(part) or {}).get('num_classes'))


def class_root(settings: Mapping) -> str | None:
    """The folder of the class folders, where a dataset's settings are those of a local one."""
    if settings.get('type') not in KINDS or settings.get('with_label') is False:
        return None
    parts = [settings.get('data_root') or '', settings.get('data_prefix') or '']
    listed = settings.get('ann_file') or settings.get('split')
    if listed or not all(isinstance(part, str) for part in parts) or '://' in parts[0]:
        return None
    return os.path.expanduser(os.path.join(*parts)).rstrip('/')


def names_of(folder: str, key: str) -> list[str]:
    """Names of the class folders, sorted; each has a file somewhere below it."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f'no such folder of class folders: {folder} (set {key}.data_root and data_prefix)'
        )
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise UserError(f'{folder} has no class folders; accepted are images at {folder}/<class>/')
    empty = [name for name in names if not any(f for *_, f in os.walk(Path(folder, name)))]
    check_none_empty(empty, folder)
    return names
