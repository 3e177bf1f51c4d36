"""Annotations in COCO's format, and the images that they list."""

import json
import mmap
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.errors import UserError


def check_coco(cfg: Config, dataset: BaseDataset, classes: Sequence[str], key: str) -> list[str]:
    """Are COCO's annotations and images there, and do names and their order agree?"""
    file = Path(dataset.ann_file)
    if not file.is_file():
        raise FileNotFoundError(f'no annotation file at {file}; set {key}.data_root and ann_file')
    categories = first_value(file, 'categories')
    if categories is None:
        raise UserError(f"{file} has no 'categories'; accepted are COCO annotations (instances)")
    names = [category['name'] for category in categories]
    if missing := [name for name in classes if name not in names]:
        lacks = f'{quoted(missing)}, which {file} does not have; it has {quoted(names)}'
        raise UserError(f'{key} asks for the categories {lacks}: set {key}.metainfo.classes')
    order = [name for name in names if name in classes]
    if order != list(classes):  # labels follow the file, names the config
        other = f'another order than the categories of {file}, which would mix up the names'
        raise UserError(f'{key}.metainfo.classes has {other}; the order there is {tuple(order)}')
    first = first_value(file, 'file_name') or ''
    image = Path(dataset.data_prefix.get('img') or '', first)
    if first and not image.is_file():
        wanted = f'set {key}.data_prefix.img to the folder of the images'
        raise FileNotFoundError(f'{file} lists {first}, and there is no {image}; {wanted}')
    return []


def first_value(file: Path, name: str) -> object:
    """The first value of that name in a JSON file, or None, without reading all of the file."""
    if not file.stat().st_size:
        raise UserError(f'{file} is empty; accepted are COCO annotations (instances)')
    with file.open('rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = text.find(f'"{name}"'.encode())
        if start < 0:
            return None
        start, length = text.find(b':', start) + 1, 1 << 20
        while True:
            part = text[start : start + length].decode(errors='ignore').lstrip()
            try:
                return json.JSONDecoder().raw_decode(part)[0]
            except json.JSONDecodeError as error:
                if start + length >= len(text):
                    raise UserError(f'{file} is no valid JSON: {error}') from error
                length *= 8
