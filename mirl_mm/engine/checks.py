"""Before anything is built: is the data there, and does it go together and with the model?

Without it a run trains on the categories that it happens to find, labels shift in silence, or it
ends in a traceback. An error here names the file, the entry in it and the setting.
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

from mirl_mm.datasets.class_folders import check_labelled, listed
from mirl_mm.errors import UserError


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Hold the data of those splits ('train', 'val', 'test') against its files and the model.

    That is class folders and lists of an ImageClassifier and, in the scopes of mmdet and mmseg,
    annotations in COCO's format and folders of masks, also inside wrappers such as RepeatDataset.
    Folders are listed, one mask is opened, and of annotations the categories alone are read. What
    is not where the config says is a FileNotFoundError, what does not go together a UserError.
    """
    scope, found = cfg.get('default_scope') or 'mmpretrain', {}
    for name in (f'{split}_dataloader' for split in splits):
        if cfg.get(name):
            found |= _datasets(cfg[name].dataset, f'{name}.dataset')
    with DefaultScope.overwrite_default_scope(scope):
        if (cfg.get('model') or {}).get('type') == 'ImageClassifier':
            check_labelled(cfg.model, found)
        elif scope in ('mmdet', 'mmseg'):
            for key, settings in found.items():
                _check_dense(cfg, key, settings)


def _datasets(settings: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The datasets inside wrappers, each with its place in the config."""
    if isinstance(settings.get('dataset'), Mapping):
        yield from _datasets(settings['dataset'], f'{key}.dataset')
    elif 'datasets' in settings:
        for i, inner in enumerate(settings['datasets']):
            yield from _datasets(inner, f'{key}.datasets.{i}')
    else:
        yield key, settings


def _check_dense(cfg: Config, key: str, settings: Mapping) -> None:
    kind = settings.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the default scope
            kind = registry.get(kind)
    readable = isinstance(kind, type) and issubclass(kind, BaseDataset)
    is_coco, has_masks = (readable and hasattr(kind, n) for n in ('COCOAPI', 'get_label_map'))
    if not is_coco and not has_masks:
        return
    classes = _class_names(kind, settings, key)
    for place, number in _class_numbers(cfg.model, 'model'):
        if number != len(classes):
            has = f'{key} has {len(classes)} classes ({_quoted(classes)})'
            how = f'set {place}.num_classes={len(classes)}, or name other classes in {key}.metainfo'
            raise UserError(f'{place}.num_classes={number}, but {has}: {how}')
    paths = f'{settings.get("data_root")}{settings.get("ann_file")}'
    if settings.get('backend_args') or '://' in paths:
        return  # the files are elsewhere
    try:  # nothing is read yet, but paths are joined and defaults filled in
        dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
    except ValueError as error:  # classes that are no part of the dataset's own
        raise UserError(f'{key}: {error}') from error
    if has_masks:
        return _check_masks(dataset, key)
    _check_coco(dataset, classes, key)
    evaluator = cfg.get(name := f'{key.partition("_")[0]}_evaluator')
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator or {}]:
        file = metric.get('ann_file')
        if file and Path(file).absolute() != Path(dataset.ann_file).absolute():
            both = f'{name}.ann_file is {file}, but {key} reads {dataset.ann_file}'
            raise UserError(f'{both}: set both to the same file')


def _class_names(kind: type[BaseDataset], settings: Mapping, key: str) -> Sequence[str]:
    given = (settings.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if not given:
        wanted = f"{key}.metainfo=dict(classes=('one', 'two', ...))"
        raise UserError(f'{key} names no classes: give {wanted}')
    if isinstance(given, str) and not Path(given).is_file():
        accepted = f'a tuple of names (one name: ({given!r},)) or a file with one name a line'
        raise UserError(f'{key}.metainfo.classes={given!r} is one string; accepted are {accepted}')
    return kind._load_metainfo(dict(classes=given))['classes']


def _class_numbers(settings: Mapping | Sequence, place: str) -> Iterator[tuple[str, int]]:
    """Every head's ``num_classes`` in a model's config, with its place; an RPN's does not count."""
    for name, value in settings.items() if isinstance(settings, Mapping) else enumerate(settings):
        if name == 'num_classes' and not place.endswith('.rpn_head'):
            yield place, value
        elif isinstance(value, Mapping | list | tuple):
            yield from _class_numbers(value, f'{place}.{name}')


def _check_coco(dataset: BaseDataset, classes: Sequence[str], key: str) -> None:
    """Are COCO's annotations and images there, and do names and their order agree?"""
    file = Path(dataset.ann_file)
    if not file.is_file():
        raise FileNotFoundError(f'no annotation file at {file}; set {key}.data_root and ann_file')
    categories = first_value(file, 'categories')
    if categories is None:
        raise UserError(f"{file} has no 'categories'; accepted are COCO annotations (instances)")
    names = [category['name'] for category in categories]
    if missing := [name for name in classes if name not in names]:
        lacks = f'{_quoted(missing)}, which {file} does not have; it has {_quoted(names)}'
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


def _check_masks(dataset: BaseDataset, key: str) -> None:
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


def _quoted(names: Sequence[str]) -> str:
    return listed([repr(name) for name in names], 10)
