"""Pictures with masks for the segment probe, out of folders or of a config of mmseg."""

import logging
from collections.abc import Iterator, Sequence
from os.path import isdir, isfile, join, splitext

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.models import VisionTransformer
from torch import Tensor

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.datasets.listing import is_image, list_files, numbered_lines
from mirl_mm.engine.checks import datasets_of
from mirl_mm.engine.checks.coco_images import seen_size
from mirl_mm.engine.checks.masks import pictures_and_masks
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.own_data import PICTURES, find_splits, mask_folder
from mirl_mm.errors import UserError
from mirl_mm.measure.linear import check_enough
from mirl_mm.measure.segment import IGNORED, Scene, Scenes, load_classes, shares_of

STAND_IN = dict(train=['train'], val=['val', 'test'], test=['test', 'val'])
ABSENT = dict(training='which is then never found', validation='which the mean leaves out')


def read_scenes(
    data: str, vit: VisionTransformer, size: tuple[int, int] | None = None, held_out: str = 'val'
) -> Scenes:
    """Scenes of a folder in a layout that ``--data`` takes, or of the loaders of mmseg's config.

    Every mask is read once. Classes that training or validation lacks are a warning.

    Args:
        data: the folder, whose values are the classes if it has no classes.txt, or the config.
        vit: the encoder, whose patches divide what it is given.
        size: (H, W) in pixels that scenes are brought to; None makes the short edge that of the
            encoder's images, and both edges whole patches.
        held_out: 'val' or 'test'; each stands in for the other.

    Raises:
        UserError, OSError: there are no scenes or too few, a picture has no mask or one of another
            size, values are none of the classes.
    """
    patch = vit.patch_embed.projection.stride
    if size and any(side < step or side % step for side, step in zip(size, patch, strict=True)):
        given = '{} x {} pixels (height x width)'.format(*size)
        raise UserError(f'scenes of {given} are no whole patches of {patch[0]} x {patch[1]}')
    read = _of_folder if isdir(data) else _of_config
    names, *parts = read(data, ('train', held_out))
    parts = [[_scene(*each, size or min(vit.img_size), patch) for each in part] for part in parts]
    check_enough(len(parts[0]))
    if len(parts[1]) < 2:
        raise UserError(f'{data} has {len(parts[1])} scenes to measure on; needed are at least 2')
    print(f'  reading {len(parts[0] + parts[1]):,} masks', flush=True)
    shares = [torch.stack([_shares(scene, names, patch) for scene in part]) for part in parts]
    present = [part.sum(dim=0) > 0 for part in shares]
    if int(present[0].sum()) < 2:
        raise UserError(f'the training masks of {data} have fewer than two classes')
    names = names or [str(i) for i in range(1 + int((present[0] | present[1]).nonzero().max()))]
    for (part, so), there in zip(ABSENT.items(), present, strict=True):
        if absent := [name for i, name in enumerate(names) if not there[i]]:
            said = f'no mask for {part} has the class {quoted(absent)}, {so}'
            print_log(said, level=logging.WARNING)
    return Scenes(*parts, names, shares[0].mean(dim=0)[: len(names)])


def _of_folder(root: str, splits: Sequence[str]) -> Iterator[list]:
    """The names of classes, if any, and what is in each split."""
    file = join(root, 'classes.txt')
    yield [name for _, name in numbered_lines(file)] if isfile(file) else []
    where = find_splits(root, PICTURES)
    for split in splits:
        if (folder := where.get(split)) is None or (masks := mask_folder(root, folder)) is None:
            lack = f'{root} has no pictures with masks for {split}'
            how = 'images/train, masks/train, images/val, masks/val, or a config of mmseg'
            raise UserError(f'{lack}; accepted is a folder with {how}')
        files = {splitext(name)[0]: name for name in list_files(join(root, masks), is_image)}
        pictures = list_files(join(root, folder), is_image)
        given = [files.get(stem := splitext(name)[0], f'{stem}.png') for name in pictures]
        pairs = zip(pictures, given, strict=True)
        yield [(join(root, folder, a), join(root, masks, b), meaning_of()) for a, b in pairs]


def _of_config(path: str, splits: Sequence[str]) -> Iterator[list]:
    """The same of mmseg's config."""
    cfg, found, names = load_config(path), [], []
    if cfg.get('default_scope') != 'mmseg':
        raise UserError(f'{path} is no config of mmseg: its default_scope is not mmseg')
    for split in splits:
        keys = [f'{each}_dataloader' for each in STAND_IN[split]]
        if not (key := next(filter(cfg.get, keys), None)):
            raise UserError(f'{path} has no {" and no ".join(keys)}')
        found.append([])
        for place, settings in datasets_of(cfg[key].dataset, f'{key}.dataset'):
            try:
                with DefaultScope.overwrite_default_scope('mmseg'):
                    dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
            except ValueError as error:  # classes that do not go together
                raise UserError(f'{place}: {error}') from error
            pictures_and_masks(dataset, place)
            dataset.full_init()
            names = names or list(dataset.metainfo.get('classes') or ())
            means = meaning_of(dataset.reduce_zero_label, dataset.label_map, dataset.ignore_index)
            data = map(dataset.get_data_info, range(len(dataset)))
            found[-1] += [(each['img_path'], each['seg_map_path'], means) for each in data]
    yield names
    yield from found


def meaning_of(zero: bool = False, renamed: dict | None = None, ignored: int = IGNORED) -> bytes:
    """As mmseg has it: without the class 0 if so set, then by other numbers."""
    values = np.arange(256)
    if zero:
        values = np.array([IGNORED, *range(254), IGNORED])
    given = values.copy()
    for old, new in (renamed or {}).items():
        values[given == old] = new
    return np.where(values == ignored, IGNORED, values).astype(np.uint8).tobytes()


def _scene(
    picture: str, mask: str, meaning: bytes, size: tuple[int, int] | int, patch: tuple[int, int]
) -> Scene:
    """The size is (H, W), or the short edge."""
    if not isfile(mask):
        raise FileNotFoundError(f'the picture {picture} has no mask: there is no {mask}')
    sizes = [seen_size(file)[0] for file in (picture, mask)]
    if None in sizes:
        raise UserError(f'cannot read the image {picture if sizes[0] is None else mask}')
    if sizes[0] != sizes[1]:
        has, wanted = ('{} x {}'.format(*each) for each in sizes[::-1])
        said = f'the mask {mask} has {has} pixels, its picture {picture} {wanted}'
        raise UserError(f'{said} (width x height); accepted are masks of the size of their picture')
    if isinstance(size, int):
        factor = size / min(sizes[0])
        sides = zip(sizes[0][::-1], patch, strict=True)
        size = tuple(max(round(side * factor / step), 1) * step for side, step in sides)
    return Scene(picture, mask, size, meaning)


def _shares(scene: Scene, names: Sequence[str], patch: tuple[int, int]) -> Tensor:
    """[255]: how much of a scene's patches each class is on average; UserError for one too many."""
    shares = shares_of(load_classes(scene), IGNORED, patch)[0].mean(dim=0)
    last = int(shares.nonzero().max()) if shares.any() else 0
    if names and last >= len(names):
        accepted = f'0 to {len(names) - 1}, for {len(names)} classes, and {IGNORED}, which is none'
        raise UserError(f'the mask {scene.mask} has the class {last}; accepted are {accepted}')
    return shares
