"""Labelled images, one folder a class: do sets of them go together, and with the model?

Otherwise labels shift in silence, since a label is the place of a folder among the others.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.fileio import get_file_backend, list_from_file
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset

from mirl_mm.errors import UserError

from .images import EXTENSIONS


def class_folders(root: str, pipeline: Sequence[dict], limit: int | None = None) -> CustomDataset:
    """Images at ``root/<class>/**``; labels are the places of the classes in sorted order.

    Args:
        root: the folder of the class folders.
        pipeline: transforms that end in PackInputs.
        limit: at most so many images of each class, the first by name.

    Raises:
        FileNotFoundError: there is no such folder.
        UserError: it has no class folders, one of them has no image, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f'limit must be at least 1 image of each class, got {limit}')
    folder_names(root)
    try:
        dataset = CustomDataset(data_root=str(root), extensions=EXTENSIONS, pipeline=pipeline)
    except RuntimeError as error:  # mmpretrain's word for not a single image
        raise UserError(
            f'no image below {root}; accepted are files that end in {", ".join(EXTENSIONS)}'
        ) from error
    check_classes(dataset)
    if limit is not None:
        dataset.get_subset_(first_of_each(dataset.get_gt_labels(), limit))
    return dataset


def folders_of(cfg: dict) -> tuple[str | None, str | None]:
    """Where a config's training and test images lie; None where it does not say."""
    found = []
    for names in (('train_dataloader',), ('test_dataloader', 'val_dataloader')):
        loader = next((cfg[name] for name in names if cfg.get(name)), None)
        dataset = {} if loader is None else loader['dataset']
        parts = [dataset.get('data_root'), dataset.get('data_prefix')]
        parts = [part for part in parts if isinstance(part, str) and part]
        found.append(os.path.join(*parts).rstrip('/') if parts else None)
    return found[0], found[1]


def first_of_each(labels: np.ndarray, limit: int) -> list[int]:
    """Indices of the first ``limit`` images of every class, in ascending order."""
    chosen = [np.flatnonzero(labels == label)[:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).tolist()


# --- checks of sets that are loaded ---------------------------------------------------------------


def class_names(dataset: CustomDataset) -> list[str] | None:
    """Names of the classes by label: of the folders, else as the dataset says, else None."""
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders is None:
        names = dataset.metainfo.get('classes')
        return None if names is None else list(names)
    return sorted(folders, key=folders.get)


def check_classes(*datasets: CustomDataset) -> None:
    """UserError for a class without an image, and where the classes of two sets differ."""
    named = {}
    for dataset in datasets:
        names, folder = class_names(dataset), str(dataset.img_prefix).rstrip('/')
        if names is not None:
            check_none_empty(names, set(dataset.get_gt_labels().tolist()), folder)
            named[folder] = names
    check_same_names(named)


def check_none_empty(names: Sequence[str], labels: set[int], place: str) -> None:
    """UserError if there are classes without an image."""
    if empty := [name for label, name in enumerate(names) if label not in labels]:
        raise UserError(f'{place} has no image of the class {listed(empty)}')


def check_same_names(named: Mapping[str, Sequence[str]]) -> None:
    """UserError if the classes of all places are not the same ones in the same order."""
    for folder, theirs in named.items():
        first, ours = next(iter(named.items()))
        if ours != theirs:
            differences = [
                f'{listed(sorted(set(left) - set(right)))} only in {place}'
                for left, right, place in ((ours, theirs, first), (theirs, ours, folder))
                if set(left) - set(right)
            ]
            how = '; '.join(differences) or 'the same names in another order'
            raise UserError(f'the classes of {first} and {folder} differ: {how}')


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names."""
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'


# --- checks before they are built -----------------------------------------------------------------


def check_labelled(model: Mapping, datasets: Mapping[str, Mapping]) -> None:
    """Hold the datasets of a classifier's config, by their places in it, against each other.

    The folders are looked at, and whether each has an image; of lists and other datasets the names
    that they are given (``metainfo``, or what the kind of dataset has), and the labels of a list.
    Data without labels, and what names no classes, are left alone.

    Raises:
        FileNotFoundError: a folder is not there.
        UserError: it has no class folders; a class without an image; other classes in validation
            than in training; another number of classes in the model.
    """
    folders, given = {}, {}
    for key, settings in datasets.items():
        try:  # nothing is read yet, but paths are joined and defaults filled in
            dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
        except TypeError:  # left to who builds it
            continue
        names = getattr(dataset, 'metainfo', {}).get('classes')
        if not getattr(dataset, 'with_label', True):
            continue
        if isinstance(dataset, CustomDataset) and not dataset.ann_file:
            place = dataset.img_prefix.rstrip('/')
            folders[place] = names = folder_names(place, key)
            check_none_empty(
                names, {i for i, n in enumerate(names) if _has_image(dataset, n)}, place
            )
        elif names is not None:
            place = dataset.ann_file or key
            given[place] = list(names)
            if isinstance(dataset, CustomDataset):
                labels = {int(line.rsplit(' ', 1)[-1]) for line in list_from_file(place)}
                check_none_empty(names, labels, place)
    check_same_names(folders)
    check_same_names(given)
    for place, names in (folders | given).items():
        for part in ('head', 'data_preprocessor'):
            wanted = (model.get(part) or {}).get('num_classes')
            if wanted not in (None, len(names)):
                raise UserError(
                    f'{place} has {len(names)} classes, but the model is set to {wanted}: give '
                    f'model.{part}.num_classes={len(names)}'
                )


def folder_names(root: str, key: str = '') -> list[str]:
    """Names of the class folders, sorted; ``key`` is the place of the dataset in a config."""
    backend = get_file_backend(root, enable_singleton=True)
    if not backend.isdir(root):
        setting = f' (set {key}.data_root and data_prefix)' if key else ''
        raise FileNotFoundError(f'no such folder of class folders: {root}{setting}')
    names = sorted(backend.list_dir_or_file(root, list_file=False))
    if not names:
        raise UserError(f'{root} has no class folders; accepted are images at {root}/<class>/')
    return names


def _has_image(dataset: CustomDataset, name: str) -> bool:
    backend = get_file_backend(dataset.img_prefix, enable_singleton=True)
    folder = backend.join_path(dataset.img_prefix, name)
    files = backend.list_dir_or_file(folder, list_dir=False, recursive=True)
    return any(map(dataset.is_valid_file, files))
