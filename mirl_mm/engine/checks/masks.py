"""Folders of masks: has every image one, and can it be read as classes?"""

from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from PIL import Image

from mirl_mm.errors import UserError


def check_masks(dataset: BaseDataset, key: str) -> None:
    """Hold the files of a dataset of mmseg, whose data is not loaded yet, against each other."""
    images, masks = (dataset.data_prefix.get(part) for part in ('img_path', 'seg_map_path'))
    for part, folder in (('img_path', images), ('seg_map_path', masks)):
        if not folder or not Path(folder).is_dir():
            raise FileNotFoundError(
                f'no folder {folder}; set {key}.data_root and {key}.data_prefix.{part}'
            )
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        raise FileNotFoundError(f'no list of images at {dataset.ann_file}; set {key}.ann_file')
    listed = dataset.load_data_list()
    if not listed:
        raise FileNotFoundError(
            f'no image in {images} ends in {dataset.img_suffix!r}; set {key}.img_suffix'
        )
    there = list_dir_or_file(masks, list_dir=False, suffix=dataset.seg_map_suffix, recursive=True)
    there = {str(Path(masks, name)) for name in there}  # one listing, not a look at every file
    if without := [each for each in listed if str(Path(each['seg_map_path'])) not in there]:
        raise FileNotFoundError(
            f'{len(without)} of {len(listed)} images in {images} have no mask; the first is '
            f'{Path(without[0]["img_path"]).name}, whose mask would be '
            f'{without[0]["seg_map_path"]} (see {key}.seg_map_suffix)'
        )
    mask = listed[0]['seg_map_path']
    with Image.open(mask) as image:
        mode = image.mode
    if mode not in ('1', 'L', 'P'):
        raise UserError(
            f'{mask} is an image of mode {mode}; accepted are masks of one 8-bit channel (L, or P '
            'with a palette) whose values are class indices, as numpy and PIL write them'
        )
