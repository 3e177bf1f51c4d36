"""Before a detector or segmentor is built: are its files there, and do names and numbers agree?

Without it MMDetection trains on what is left of the categories it happens to find, or both end in a
traceback that names neither the file nor the setting.
"""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mirl_mm.errors import UserError

SCOPES = ('mmdet', 'mmseg')
FEW = 10  # names that an error lists


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Hold the data of a config against its files and its model.

    COCO-format and mask-folder datasets are looked at, also inside wrappers such as RepeatDataset;
    others are left alone, and so is every config of another scope. Folders are listed, one mask is
    opened, and of annotations the categories alone are read.

    Args:
        cfg: a whole config.
        splits: of 'train', 'val' and 'test', those that will be loaded.

    Raises:
        FileNotFoundError: annotations, masks or images are not where the config says.
        ValueError: categories that the annotations do not have, or in another order; another number
            of classes in the model; a metric with other annotations than the data.
    """
    scope = cfg.get('default_scope')
    if scope not in SCOPES:
        return
    with DefaultScope.overwrite_default_scope(scope):
        for split in splits:
            if loader := cfg.get(f'{split}_dataloader'):
                for key, settings in _datasets(loader.dataset, f'{split}_dataloader.dataset'):
                    _check_dataset(cfg, split, key, settings)


def _datasets(settings: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The datasets inside wrappers, each with its place in the config."""
    if isinstance(settings.get('dataset'), Mapping):
        yield from _datasets(settings['dataset'], f'{key}.dataset')
    elif 'datasets' in settings:
        for i, inner in enumerate(settings['datasets']):
            yield from _datasets(inner, f'{key}.datasets.{i}')
    else:
        yield key, settings


def _check_dataset(cfg: Config, split: str, key: str, settings: Mapping) -> None:
    kind = settings.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the default scope
            kind = registry.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return
    is_coco = hasattr(kind, 'COCOAPI')
    if not is_coco and not hasattr(kind, 'get_label_map'):
        return
    classes = _class_names(kind, settings, key)
    _check_heads(cfg, classes, key)
    paths = f'{settings.get("data_root")}{settings.get("ann_file")}'
    if settings.get('backend_args') or '://' in paths:
        return  # the files are elsewhere
    try:  # nothing is read yet, but paths are joined and defaults filled in
        dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
    except ValueError as error:  # classes that are no part of the dataset's own
        raise UserError(f'{key}: {error}') from error
    if is_coco:
        _check_coco(dataset, classes, key)
        _check_metric(cfg.get(f'{split}_evaluator'), dataset, split, key)
    else:
        _check_masks(dataset, key)


def _class_names(kind: type[BaseDataset], settings: Mapping, key: str) -> Sequence[str]:
    given = (settings.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if not given:
        raise UserError(
            f"{key} names no classes: give {key}.metainfo=dict(classes=('one', 'two', ...))"
        )
    if isinstance(given, str) and not Path(given).is_file():
        raise UserError(
            f'{key}.metainfo.classes={given!r} is one string; accepted are a tuple of names (one '
            f'name: ({given!r},)) or a file with one name a line'
        )
    return kind._load_metainfo(dict(classes=given))['classes']


def _check_heads(cfg: Config, classes: Sequence[str], key: str) -> None:
    for place, number in class_numbers(cfg.model, 'model'):
        if number != len(classes):
            raise UserError(
                f'{place}.num_classes={number}, but {key} has {len(classes)} classes '
                f'({_listed(classes)}): set {place}.num_classes={len(classes)}, or name other '
                f'classes in {key}.metainfo'
            )


def class_numbers(settings: object, place: str) -> Iterator[tuple[str, int]]:
    """Every head's ``num_classes`` in a model's config, with its place; an RPN's does not count."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name == 'num_classes' and place.split('.')[-1] != 'rpn_head':
                yield place, value
            else:
                yield from class_numbers(value, f'{place}.{name}')
    elif isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from class_numbers(value, f'{place}.{i}')


def _check_coco(dataset: BaseDataset, classes: Sequence[str], key: str) -> None:
    file = Path(dataset.ann_file)
    if not file.is_file():
        raise FileNotFoundError(
            f'no annotation file at {file}; set {key}.data_root and {key}.ann_file'
        )
    categories = _value(file, 'categories')
    if categories is None:
        raise UserError(f"{file} has no 'categories'; accepted are COCO annotations (instances)")
    names = [category['name'] for category in categories]
    if missing := [name for name in classes if name not in names]:
        raise UserError(
            f'{key} asks for the categories {_listed(missing)}, which {file} does not have; it has '
            f'{_listed(names)}: set {key}.metainfo.classes'
        )
    order = [name for name in names if name in classes]
    if order != list(classes):  # labels follow the file, names the config
        raise UserError(
            f'{key}.metainfo.classes has another order than the categories of {file}, which would '
            f'mix up the names; the order there is {tuple(order)}'
        )
    first = _value(file, 'file_name')
    image = Path(dataset.data_prefix.get('img') or '') / (first or '')
    if first and not image.is_file():
        raise FileNotFoundError(
            f'{file} lists {first}, and there is no {image}; set {key}.data_prefix.img to the '
            'folder of the images'
        )


def _value(file: Path, name: str) -> object:
    """The first value of that name in a JSON file of any size, without reading all of it, or None.

    Raises:
        ValueError: it is no JSON.
    """
    if not file.stat().st_size:
        raise UserError(f'{file} is empty; accepted are COCO annotations (instances)')
    with file.open('rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = text.find(f'"{name}"'.encode())
        if start < 0:
            return None
        start = text.find(b':', start) + 1
        length = 1 << 20
        while True:
            part = text[start : start + length].decode(errors='ignore').lstrip()
            try:
                return json.JSONDecoder().raw_decode(part)[0]
            except json.JSONDecodeError as error:
                if start + length >= len(text):
                    raise UserError(f'{file} is no valid JSON: {error}') from error
                length *= 8


def _check_metric(evaluator: object, dataset: BaseDataset, split: str, key: str) -> None:
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator or {}]
    for metric in metrics:
        file = metric.get('ann_file')
        if file and Path(file).absolute() != Path(dataset.ann_file).absolute():
            raise UserError(
                f'{split}_evaluator.ann_file is {file}, but {key} reads {dataset.ann_file}: set '
                'both to the same file'
            )


def _check_masks(dataset: BaseDataset, key: str) -> None:
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


def _listed(names: Sequence[str]) -> str:
    shown = ', '.join(map(repr, names[:FEW]))
    return shown if len(names) <= FEW else f'{shown} and {len(names) - FEW} more'
