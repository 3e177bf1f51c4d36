"""Labelled images: one folder a class, and whether two sets of them go together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
        ValueError: it has no class folders, one of them has no image, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f'limit must be at least 1 image of each class, got {limit}')
    if not Path(root).is_dir():
        raise FileNotFoundError(f'no such folder of class folders: {root}')
    if not any(p.is_dir() and not p.name.startswith('.') for p in Path(root).iterdir()):
        raise UserError(f'{root} has no class folders; accepted are images at {root}/<class>/')
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
        found.append(str(Path(*parts)) if parts else None)
    return found[0], found[1]


def first_of_each(labels: np.ndarray, limit: int) -> list[int]:
    """Indices of the first ``limit`` images of every class, in ascending order."""
    chosen = [np.flatnonzero(labels == label)[:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).tolist()


def class_names(dataset: CustomDataset) -> list[str] | None:
    """Names of the classes by label: of the folders, else as the dataset says, else None."""
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders is None:
        names = dataset.metainfo.get('classes')
        return None if names is None else list(names)
    return sorted(folders, key=folders.get)


def check_classes(train: CustomDataset, val: CustomDataset | None = None) -> None:
    """ValueError for a class without an image, and where the classes of the two sets differ."""
    for dataset in (train, val):
        names = None if dataset is None else class_names(dataset)
        if names is None:
            continue
        counts = np.bincount(dataset.get_gt_labels(), minlength=len(names))
        empty = [name for name, count in zip(names, counts, strict=False) if not count]
        check_none_empty(empty, where(dataset))
    ours, theirs = class_names(train), None if val is None else class_names(val)
    if ours is not None and theirs is not None:
        check_same_names(ours, theirs, where(train), where(val))


def check_none_empty(empty: Sequence[str], folder: str) -> None:
    """ValueError if there are classes without an image."""
    if empty:
        raise UserError(f'{folder} has no image of the class {_listed(empty)}')


def check_same_names(
    ours: Sequence[str], theirs: Sequence[str], our_folder: str, their_folder: str
) -> None:
    """ValueError if the classes of two folders are not the same ones in the same order."""
    if ours == theirs:
        return
    differences = [
        f'{_listed(sorted(set(left) - set(right)))} only in {folder}'
        for left, right, folder in ((ours, theirs, our_folder), (theirs, ours, their_folder))
        if set(left) - set(right)
    ]
    raise UserError(
        f'the classes of {our_folder} and {their_folder} differ: '
        f'{"; ".join(differences) or "the same names in another order"}'
    )


def check_number(number: int, folder: str, part: str, wanted: int | None) -> None:
    """ValueError if a part of the model is set to another number of classes than a folder has."""
    if wanted is not None and number != wanted:
        raise UserError(
            f'{folder} has {number} classes, but the model is set to {wanted}: give '
            f'model.{part}.num_classes={number}'
        )


def where(dataset: CustomDataset) -> str:
    """The folder of a dataset's images."""
    return str(dataset.img_prefix).rstrip('/')


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'
