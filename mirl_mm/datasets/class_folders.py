"""Labelled images, one folder a class: do sets of them go together, and with the model?

Otherwise labels shift in silence, since a label is the place of a folder among the others.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from mmengine.fileio import get_file_backend, list_from_file
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset

from mirl_mm.errors import UserError

from .images import EXTENSIONS


def class_folders(root: str, pipeline: Sequence[dict], limit: int | None = None) -> CustomDataset:
    """Images at ``root/<class>/**``; labels are the places of the classes in sorted order.

    The pipeline ends in PackInputs; ``limit`` takes the first images of each class by name.
    """
    if limit is not None and limit < 1:
        raise UserError(f'limit must be at least 1 image of each class, got {limit}')
    dataset = CustomDataset(str(root), extensions=EXTENSIONS, pipeline=pipeline, lazy_init=True)
    folder_names(dataset)
    dataset.full_init()
    if limit is not None:
        dataset.get_subset_(first_of_each(dataset.get_gt_labels(), limit))
    return dataset


def folders_of(cfg: dict) -> tuple[str | None, str | None]:
    """Where a config's training and test images lie; None where it does not say."""

    def folder(*loaders: str) -> str | None:
        dataset = next((cfg[name]['dataset'] for name in loaders if cfg.get(name)), {})
        parts = [dataset.get('data_root'), dataset.get('data_prefix')]
        parts = [part for part in parts if isinstance(part, str) and part]
        return os.path.join(*parts).rstrip('/') if parts else None

    return folder('train_dataloader'), folder('test_dataloader', 'val_dataloader')


def first_of_each(labels: np.ndarray, limit: int) -> list[int]:
    """Indices of the first ``limit`` images of every class, in ascending order."""
    chosen = [np.flatnonzero(labels == label)[:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).tolist()


def check_classes(*sets: CustomDataset) -> None:
    """UserError if the classes of sets are not the same ones in the same order."""
    _check_same({each.img_prefix.rstrip('/'): list(each.metainfo['classes']) for each in sets})


def check_labelled(model: Mapping, datasets: Mapping[str, Mapping]) -> list[str]:
    """Hold the datasets of a classifier's config, by their places in it, against each other.

    Of folders the names and a first image are looked at, of lists the labels, and of these and
    other datasets the names that they are given; without labels or names they are left alone.
    """
    folders, given = {}, {}
    for key, settings in datasets.items():
        try:  # nothing is read yet, but paths are joined and defaults filled in
            dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
        except TypeError:  # left to who builds it
            continue
        if not getattr(dataset, 'with_label', True):
            continue
        names = getattr(dataset, 'metainfo', {}).get('classes')
        of_files = isinstance(dataset, CustomDataset)
        if of_files and not dataset.ann_file:
            folders[dataset.img_prefix.rstrip('/')] = folder_names(dataset, key)
        elif names is not None:
            place = dataset.ann_file or key
            given[place] = list(names)
            if of_files:
                labels = {int(line.rsplit(' ', 1)[-1]) for line in list_from_file(place)}
                _check_empty([name for i, name in enumerate(names) if i not in labels], place)
    _check_same(folders)
    _check_same(given)
    for place, names in (folders | given).items():
        for part in ('head', 'data_preprocessor'):
            wanted = (model.get(part) or {}).get('num_classes')
            if wanted not in (None, len(names)):
                differs = f'has {len(names)} classes, but the model is set to {wanted}'
                raise UserError(f'{place} {differs}: give model.{part}.num_classes={len(names)}')
    return []


def folder_names(dataset: CustomDataset, key: str = '') -> list[str]:
    """Names of the class folders, in the order of their labels; each has an image.

    The dataset may be unread; ``key`` is its place in a config.
    """
    root, place = dataset.img_prefix, dataset.img_prefix.rstrip('/')
    backend = get_file_backend(root, enable_singleton=True)
    if not backend.isdir(root):
        setting = f' (set {key}.data_root and data_prefix)' if key else ''
        raise FileNotFoundError(f'no such folder of class folders: {place}{setting}')
    names = sorted(backend.list_dir_or_file(root, list_file=False))
    if not names:
        raise UserError(f'{place} has no class folders; accepted are images at {place}/<class>/')
    below = partial(backend.list_dir_or_file, list_dir=False, recursive=True)
    inside = ((name, below(backend.join_path(root, name))) for name in names)
    empty = [name for name, files in inside if not any(map(dataset.is_valid_file, files))]
    if empty == names:
        ends = ', '.join(sorted(dataset.extensions))
        raise UserError(f'no image below {place}; accepted are files that end in {ends}')
    _check_empty(empty, place)
    return names


def _check_empty(empty: Sequence[str], place: str) -> None:
    if empty:
        raise UserError(f'{place} has no image of the class {listed(empty)}')


def _check_same(named: Mapping[str, Sequence[str]]) -> None:
    for place, theirs in named.items():
        first, ours = next(iter(named.items()))
        if ours != theirs:
            alone = ((first, set(ours) - set(theirs)), (place, set(theirs) - set(ours)))
            how = [f'{listed(sorted(names))} only in {where}' for where, names in alone if names]
            how = '; '.join(how) or 'the same names in another order'
            raise UserError(f'the classes of {first} and {place} differ: {how}')


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names."""
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'


def quoted(names: Sequence[str]) -> str:
    """The first names, each in quotes."""
    return listed([repr(name) for name in names], 10)
