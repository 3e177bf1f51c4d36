"""Folders of images and of masks, one a picture, whose values are class indices."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from mmengine.registry import TRANSFORMS
from PIL import Image

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.datasets.decode import ACROSS
from mirl_mm.errors import UserError
from mirl_mm.files import some_of

from .coco_images import seen_size


def check_masks(cfg: Config, dataset: BaseDataset, classes: Sequence[str], key: str) -> list[str]:
    """Has every image of mmseg's dataset a mask of its size, and does that hold its classes?

    The dataset has the transforms that load as its pipeline.
    """
    pairs = pictures_and_masks(dataset, key)
    notes = _check_names(dataset, pairs, key)
    steps, check_files = dataset.pipeline.transforms, cfg.get('check_files', True)
    if not (loaders := [step for step in steps if _reads_masks(step)]):
        return notes  # masks of another kind, by another transform
    opened, read = some_of(pairs) if check_files else pairs[:1], NamedMasks(loaders[0])
    ignored, present, unseen = _last_head(cfg.model).get('ignore_index', 255), set(), []
    given = dict(label_map=dataset.label_map, reduce_zero_label=dataset.reduce_zero_label)
    turns = getattr(steps[0], 'color_type', 'color') == 'color'  # others: sizes are the loader's
    turns &= getattr(steps[0], 'channels', None) is None
    for picture, mask in opened:
        size, tag = seen_size(picture) if turns else (None, 1)
        if tag in (2, 3, 4) or (tag in ACROSS and size[0] == size[1]):
            unseen.append(picture)
        paths = dict(img_path=picture, seg_map_path=mask, seg_fields=[])
        paths['ori_shape'] = size and size[::-1]
        values = np.flatnonzero(np.bincount(read(given | paths)['gt_seg_map'].ravel())).tolist()
        if wrong := [value for value in values if value >= len(classes) and value != ignored]:
            raise wrong_labels(mask, wrong, len(classes), ignored, dataset.reduce_zero_label)
        present.update(values)
    if not check_files:
        return notes
    if len(opened) < len(pairs):
        notes.append(f'{key}: {len(opened)} of {len(pairs)} masks were opened before the run')
    if unseen:
        which = f'turned by their EXIF tag so that no size shows it ({len(unseen)}, as {unseen[0]})'
        notes.append(f'{key} has pictures {which}: see that their masks are turned, too')
    return notes + _check_present(dataset, classes, key, present, ignored)


def pictures_and_masks(dataset: BaseDataset, key: str) -> list[tuple[str, str]]:
    """Of mmseg's dataset; FileNotFoundError where a folder, the list or every image is missing."""
    for part in ('img_path', 'seg_map_path'):
        if not (path := dataset.data_prefix.get(part)) or not Path(path).is_dir():
            raise FileNotFoundError(f'no folder {path}; set {key}.data_root and data_prefix.{part}')
    if dataset.ann_file and not Path(dataset.ann_file).is_file():
        raise FileNotFoundError(f'no list of images at {dataset.ann_file}; set {key}.ann_file')
    pairs = [(each['img_path'], each['seg_map_path']) for each in dataset.load_data_list()]
    if not pairs:
        suffix = f'{dataset.img_suffix!r}; set {key}.img_suffix'
        raise FileNotFoundError(f'no image in {dataset.data_prefix["img_path"]} ends in {suffix}')
    return pairs


def check_one_class(model: Mapping, classes: Sequence[str], key: str) -> None:
    """UserError for a segmentor of one class, unless it has 'no object' beside it."""
    if len(classes) == 1 and 'loss_cls' not in _last_head(model):
        both = f'{key}.metainfo.classes={("background", *classes)}, num_classes=2, masks of 0 and 1'
        why = 'nothing to tell it from, and the loss goes to 0'
        raise UserError(f'{key} has one class ({quoted(classes)}): {why}; accepted are two: {both}')


def _last_head(model: Mapping) -> Mapping:
    heads = model.get('decode_head') or {}
    return heads[-1] if isinstance(heads, list | tuple) else heads


def _check_names(dataset: BaseDataset, pairs: Sequence[tuple[str, str]], key: str) -> list[str]:
    """Are all pictures and masks there, and which masks are left out?"""
    images, masks = dataset.data_prefix['img_path'], dataset.data_prefix['seg_map_path']
    pictures, there = _files(images), _files(masks)  # not a look at every file
    for number, (image, _) in enumerate(pairs, 1):
        if str(Path(image)) not in pictures:
            accepted = f'a name a line, without its ending ({key}.img_suffix)'
            line = f'{dataset.ann_file} line {number}: no picture at {image}'
            raise FileNotFoundError(f'{line}; accepted is {accepted}')
    if without := [pair for pair in pairs if str(Path(pair[1])) not in there]:
        image, mask = without[0]
        lack = f'{len(without)} of {len(pairs)} images in {images} have no mask'
        first = f'{os.path.relpath(image, images)}, whose mask would be {mask}'
        raise FileNotFoundError(f'{lack}; the first is {first} (see {key}.seg_map_suffix)')
    if dataset.ann_file:
        return []
    alone = there - {str(Path(mask)) for _, mask in pairs}
    alone = [mask for mask in alone if mask.lower().endswith(dataset.seg_map_suffix.lower())]
    if not alone:
        return []
    which = f'without a picture that ends in {dataset.img_suffix!r} ({len(alone)}, as {min(alone)})'
    return [f'{key} leaves out masks {which}: see img_suffix, or rename']


def _files(folder: str) -> set[str]:
    names = list_dir_or_file(folder, list_dir=False, recursive=True)
    return {str(Path(folder, name)) for name in names}


def _check_present(
    dataset: BaseDataset, classes: Sequence[str], key: str, present: set[int], ignored: int
) -> list[str]:
    """Refuse masks that teach nothing; a note about classes that occur in none."""
    there, training = sorted(present - {ignored}), key.startswith('train_')
    if len(there) > 1 or len(classes) == 1:
        absent = [name for i, name in enumerate(classes) if i not in present]
        what = f'{key}: no mask that was opened before the run has the class {quoted(absent)}'
        return [what] if absent and training else []
    has = f'one class alone, {there[0]} ({classes[there[0]]!r})' if there else 'no class'
    how = f'accepted are masks with several of 0 to {len(classes) - 1}'
    if ignored in present:
        has = f'{has}; the rest is {ignored}, which is ignored'
        what, value = ('the background', 0) if there not in ([], [0]) else ('objects', 1)
        how = f'if {ignored} marks {what}, write {value} there: mask[mask == {ignored}] = {value}'
    if dataset.reduce_zero_label:
        how = f'if 0 is a class, set {key}.reduce_zero_label=False'
    said = f'{key}: the masks in {dataset.data_prefix["seg_map_path"]} have {has}: {how}'
    if there and (not training or '.datasets.' in key):
        return [said]
    raise UserError(said)


class NamedMasks:
    """mmseg's LoadAnnotations, whose every error names the mask: a UserError.

    The mask cannot be read, is not of one 8-bit channel, or differs in size from its picture
    (``ori_shape`` of the results).
    """

    def __init__(self, load: Callable) -> None:
        self.load = load
        self.modes = ('1', 'L', 'P') if load.imdecode_backend == 'pillow' else ('L',)

    def __call__(self, results: dict) -> dict:
        if (file := results.get('seg_map_path')) is None:
            return self.load(results)
        mode = None
        try:
            if not self.load.backend_args and '://' not in file:
                with Image.open(file) as image:
                    mode = image.mode
            results = self.load(results)
        except Exception as error:  # decoders raise whatever they like
            raise UserError(f'the mask {file} cannot be read: {error}') from error
        if mode not in (*self.modes, None):
            accepted = 'masks of one 8-bit channel that holds class indices (L; for Pillow also P)'
            raise UserError(f'{file} is an image of mode {mode}; accepted are {accepted}')
        shape, size = results['gt_seg_map'].shape, results.get('ori_shape')
        if size and shape != size:
            mask, picture = (f'{w} x {h}' for h, w in (shape, size))
            said = f'the mask {file} has {mask} pixels, its picture {results["img_path"]} {picture}'
            how = 'accepted are masks of the size of their picture'
            if shape == size[::-1] and seen_size(results['img_path'])[1] in ACROSS:
                how = "the picture's EXIF tag turns it, and the mask is not turned; turn the mask"
                how += ' too, or remove the tag from the picture'
            raise UserError(f'{said} (width x height); {how}')
        return results


def name_masks(dataset: BaseDataset) -> None:
    """Put NamedMasks round mmseg's LoadAnnotations in a dataset, also inside wrappers."""
    for inner in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
        if inner is not None:
            name_masks(inner)
    pipelines = [getattr(dataset, 'pipeline', None)]
    for pipeline in pipelines:  # which grows
        steps = getattr(pipeline, 'transforms', [])
        for i, step in enumerate(steps):
            steps[i] = NamedMasks(step) if _reads_masks(step) else step
            pipelines += getattr(step, 'subroutines', [])  # of TestTimeAug


def _reads_masks(step: Callable) -> bool:
    return type(step) is TRANSFORMS.get('mmseg.LoadAnnotations')


def wrong_labels(
    mask: str, wrong: Sequence[int], number: int, ignored: int, reduced: bool
) -> UserError:
    """The error for a mask with values that are neither one of so many classes nor the ignored."""
    values = ', '.join(str(value) for value in wrong[:5])
    zero = ' (after 0 became the ignored one)' if reduced else ''
    classes = f'0 to {number - 1}, for the {number} classes of the model, and {ignored}'
    lossy = mask.lower().endswith(('.jpg', '.jpeg'))
    png = ' (JPEG changes values: save masks as PNG)' if lossy else ''
    said = f'the mask {mask} has the label {values}{zero}; accepted are {classes}'
    return UserError(f'{said}, which is ignored{png}')
