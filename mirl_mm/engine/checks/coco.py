"""COCO's format: are annotations and images there, and do names, order and metric agree?"""

import json
import mmap
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mirl_mm.datasets.class_folders import listed
from mirl_mm.errors import UserError


def check_coco(dataset: BaseDataset, classes: Sequence[str], key: str) -> None:
    """Hold the annotations of a dataset that is not read yet against its classes and images."""
    file = Path(dataset.ann_file)
    if not file.is_file():
        wanted = f'set {key}.data_root and {key}.ann_file'
        raise FileNotFoundError(f'no annotation file at {file}; {wanted}')
    categories = first_value(file, 'categories')
    if categories is None:
        raise UserError(f"{file} has no 'categories'; accepted are COCO annotations (instances)")
    names = [category['name'] for category in categories]
    if missing := [name for name in classes if name not in names]:
        raise UserError(
            f'{key} asks for the categories {quoted(missing)}, which {file} does not have; it has '
            f'{quoted(names)}: set {key}.metainfo.classes'
        )
    order = [name for name in names if name in classes]
    if order != list(classes):  # labels follow the file, names the config
        raise UserError(
            f'{key}.metainfo.classes has another order than the categories of {file}, which would '
            f'mix up the names; the order there is {tuple(order)}'
        )
    first = first_value(file, 'file_name') or ''
    image = Path(dataset.data_prefix.get('img') or '', first)
    if first and not image.is_file():
        wanted = f'set {key}.data_prefix.img to the folder of the images'
        raise FileNotFoundError(f'{file} lists {first}, and there is no {image}; {wanted}')


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


def check_metric(cfg: Config, dataset: BaseDataset, key: str) -> None:
    """UserError if the metric of a dataset's split reads other annotations than it."""
    evaluator = cfg.get(name := f'{key.partition("_")[0]}_evaluator')
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator or {}]:
        file = metric.get('ann_file')
        if file and Path(file).absolute() != Path(dataset.ann_file).absolute():
            both = f'{name}.ann_file is {file}, but {key} reads {dataset.ann_file}'
            raise UserError(f'{both}: set both to the same file')


def quoted(names: Sequence[str]) -> str:
    """The first ten names."""
    return listed([repr(name) for name in names], 10)
