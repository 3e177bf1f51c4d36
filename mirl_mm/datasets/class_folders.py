"""Labelled images, one folder a class: do sets of them go together, and with the model?

Otherwise labels shift in silence, since a label is the place of a folder among the others.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.fileio import get_file_backend
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset

from mirl_mm.errors import UserError
from mirl_mm.files import some_of

from .listing import EXTENSIONS, LABELLED, find_folders, numbered_lines, visible_files


def class_folders(root: str, pipeline: Sequence[dict], limit: int | None = None) -> CustomDataset:
    """Images at ``root/<class>/**``; labels are the places of the classes in sorted order.

    The pipeline ends in PackInputs; ``limit`` takes so many images of each class, evenly spread.
    """
    if limit is not None and limit < 1:
        raise UserError(f'limit must be at least 1 image of each class, got {limit}')
    dataset = CustomDataset(str(root), extensions=EXTENSIONS, pipeline=pipeline, lazy_init=True)
    folder_names(dataset)
    dataset.full_init()
    if limit is not None:
        dataset.get_subset_(some_of_each(dataset.get_gt_labels(), limit))
    return dataset


def train_and_val(
    train: str, val: str, pipeline: Sequence[dict], limit: int | None, val_limit: int | None
) -> list[CustomDataset]:
    """Two of them, which have the same classes; each has a limit of its own."""
    sets = [class_folders(train, pipeline, limit), class_folders(val, pipeline, val_limit)]
    check_classes(*sets)
    return sets


def folders_of(cfg: dict) -> tuple[str | None, str | None]:
    """Where a config's training and test images lie; None where it does not say."""

    def folder(*loaders: str) -> str | None:
        dataset = next((cfg[name]['dataset'] for name in loaders if cfg.get(name)), {})
        parts = [dataset.get('data_root'), dataset.get('data_prefix')]
        parts = [part for part in parts if isinstance(part, str) and part]
        return os.path.join(*parts).rstrip('/') if parts else None

    return folder('train_dataloader'), folder('test_dataloader', 'val_dataloader')


def some_of_each(labels: np.ndarray, limit: int) -> list[int]:
    """Indices of at most ``limit`` images of every class, evenly spread, in ascending order."""
    chosen = [some_of(np.flatnonzero(labels == label), limit) for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).tolist()


def check_classes(*sets: CustomDataset) -> None:
    """UserError if the classes of sets are not the same ones in the same order."""
    _check_same({each.img_prefix.rstrip('/'): list(each.metainfo['classes']) for each in sets})


def check_labelled(model: Mapping, datasets: Mapping[str, Mapping], look: bool = True) -> list[str]:
    """Hold the datasets of a classifier's config, by their places in it, against each other.

    Of folders the names and a first image are looked at, of lists every line and, with ``look``,
    whether some of the images are there, of these and other datasets the names they are given;
    without labels they are left alone. Returns what the user should know beside errors.
    """
    folders, given, notes = {}, {}, []
    number = (model.get('head') or {}).get('num_classes')
    for key, settings in datasets.items():
        try:  # nothing is read yet, but paths are joined and defaults filled in
            dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
        except TypeError:  # left to who builds it
            continue
        if not getattr(dataset, 'with_label', True):
            continue
        names = getattr(dataset, 'metainfo', {}).get('classes')
        of_files = getattr(type(dataset), 'load_data_list', None) is CustomDataset.load_data_list
        if of_files and not dataset.ann_file:
            folders[dataset.img_prefix.rstrip('/')] = found = folder_names(dataset, key)
            _check_names(names, found, dataset.img_prefix.rstrip('/'), key)
        else:
            if names is not None:
                given[dataset.ann_file or key] = names = list(names)
            if of_files:
                notes += _check_list(dataset, key, names or number, look)
    _check_same(folders)
    _check_same(given)
    for place, names in (folders | given).items():
        for part in ('head', 'data_preprocessor'):
            wanted = (model.get(part) or {}).get('num_classes')
            if wanted not in (None, len(names)):
                differs = f'has {len(names)} classes, but the model is set to {wanted}'
                raise UserError(f'{place} {differs}: give model.{part}.num_classes={len(names)}')
    return notes


def folder_names(dataset: CustomDataset, key: str = '') -> list[str]:
    """Names of the class folders, in the order of their labels; each has an image.

    The dataset may be unread; ``key`` is its place in a config.
    """
    root, place = dataset.img_prefix, dataset.img_prefix.rstrip('/')
    if not get_file_backend(root, enable_singleton=True).isdir(root):
        setting = f' (set {key}.data_root and data_prefix)' if key else ''
        raise FileNotFoundError(f'no such folder of class folders: {place}{setting}')
    names, _ = find_folders(root)
    if not names:
        raise UserError(f'{place} has no class folders; accepted are images at {place}/<class>/')
    accepts, ignored = dataset.is_valid_file, defaultdict(list)
    inside = (visible_files(root, f'{name}/', accepts, ignored) for name in names)
    empty = [name for name, files in zip(names, inside, strict=True) if next(files, None) is None]
    if empty == names:
        ends = ', '.join(sorted(dataset.extensions))
        raise UserError(f'no image below {place}; accepted are files that end in {ends}')
    _check_empty(empty, place)
    return names


def _check_names(given: Sequence[str] | None, found: list[str], place: str, key: str) -> None:
    """The class folders and the names that a config or its type of dataset gives them."""
    if given is None:
        return
    if len(given) != len(found):
        has = f'{place} has {len(found)} class folders, but {key} names {len(given)} classes'
        how = f'give {key}.type=CustomDataset and no classes, which takes the names of the folders'
        raise UserError(f'{has}: {how}')
    if sorted(given) == found != list(given):
        order = 'labels go by the sorted folders: give the names in that order, or none'
        raise UserError(f'{key} has the classes {listed(given)} in another order, but {order}')


def _check_list(
    dataset: CustomDataset, key: str, classes: Sequence[str] | int | None, look: bool
) -> list[str]:
    """Every line of a list with labels; ``classes`` are names, their number, or unknown."""
    file, folder, first = dataset.ann_file, dataset.img_prefix, {}
    number = len(classes) if isinstance(classes, list) else classes
    upto = 'on' if number is None else f'to {number - 1}'
    accepted = f'accepted is a path, a blank and the number of its class, from 0 {upto}'
    for line, text in numbered_lines(file):
        if not (found := LABELLED.fullmatch(text)):
            raise UserError(f'{file}, line {line}: {text!r} ends in no label; {accepted}')
        path, label = found[2], int(found[3])
        before, other = first.setdefault(path, (line, label))
        if label != other:
            differs = f'{path} has label {label}, but {other} in line {before}'
            raise UserError(f'{file}, line {line}: {differs}')
    labels = {label for _, label in first.values()}
    from_1 = '' if 0 in labels else '; no line has label 0: if they start at 1, subtract 1 from all'
    for line, label in first.values():
        if not 0 <= label < (number or label + 1):
            raise UserError(f'{file}, line {line}: label {label}; {accepted}{from_1}')
    if not labels:
        raise UserError(f'{file} names no image; {accepted}')
    notes, without = [], [i for i in range(number or 0) if i not in labels]
    if isinstance(classes, list):
        _check_empty([classes[i] for i in without], file, f', which {key} names{from_1}')
    elif without:
        notes.append(f'{file} has no image of label {listed(list(map(str, without)))}{from_1}')
    backend = get_file_backend(folder, enable_singleton=True)
    some = some_of(list(first)) if look else []
    gone = [path for path in some if not backend.isfile(backend.join_path(folder, path))]
    if gone:
        place = f'{file}, line {first[gone[0]][0]}: no image {backend.join_path(folder, gone[0])}'
        missing = f'{len(gone)} of {len(some)} images that were looked for are missing'
        raise FileNotFoundError(f'{place}; {missing}: set {key}.data_root and data_prefix')
    if 0 < len(some) < len(first):
        notes.append(f'{file}: looked for {len(some):,} of {len(first):,} images')
    return notes


def _check_empty(empty: Sequence[str], place: str, hint: str = '') -> None:
    if empty:
        raise UserError(f'{place} has no image of the class {listed(empty)}{hint}')


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
