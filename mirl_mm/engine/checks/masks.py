"""Folders of images and of masks, one a picture, whose values are class indices."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from PIL import Image

from mirl_mm.errors import UserError


def check_masks(cfg: Config, dataset: BaseDataset, classes: Sequence[str], key: str) -> list[str]:
    """Has every image of mmseg's dataset a mask, and holds that classes?"""
    images, masks = (dataset.data_prefix.get(part) for part in ('img_path', 'seg_map_path'))
    for part, path in (('img_path', images), ('seg_map_path', masks)):
        if not path or not Path(path).is_dir():
            raise FileNotFoundError(f'no folder {path}; set {key}.data_root and data_prefix.{part}')
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        raise FileNotFoundError(f'no list of images at {dataset.ann_file}; set {key}.ann_file')
    pairs = [(each['img_path'], each['seg_map_path']) for each in dataset.load_data_list()]
    if not pairs:
        suffix = f'{dataset.img_suffix!r}; set {key}.img_suffix'
        raise FileNotFoundError(f'no image in {images} ends in {suffix}')
    there = list_dir_or_file(masks, list_dir=False, suffix=dataset.seg_map_suffix, recursive=True)
    there = {str(Path(masks, name)) for name in there}  # one listing, not a look at every file
    if without := [pair for pair in pairs if str(Path(pair[1])) not in there]:
        image, mask = without[0]
        lack = f'{len(without)} of {len(pairs)} images in {images} have no mask'
        first = f'{Path(image).name}, whose mask would be {mask} (see {key}.seg_map_suffix)'
        raise FileNotFoundError(f'{lack}; the first is {first}')
    mask = pairs[0][1]
    with Image.open(mask) as image:
        mode = image.mode
    if mode not in ('1', 'L', 'P'):
        accepted = 'masks of one 8-bit channel (L, or P with a palette) that holds class indices'
        raise UserError(f'{mask} is an image of mode {mode}; accepted are {accepted}')
    return []
