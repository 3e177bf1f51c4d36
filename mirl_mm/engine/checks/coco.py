"""Files in COCO's format: categories against a config's classes, and who reads which file."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.errors import UserError
from mirl_mm.files import write_complete

from .annotations import Reader, check_annotations, read_annotations, repaired
from .coco_images import Entries, check_images

ACCEPTED = 'accepted are COCO annotations (instances)'


def check_coco(cfg: Config, dataset: BaseDataset, classes: Sequence[str], key: str) -> list[str]:
    """Are annotations and images there and sound, and do names and their order agree?

    With ``check_files`` the file is read whole and headers of its images are. What can be repaired
    without a doubt is, in a copy below the work dir, to which the config is then pointed.
    """
    file = Path(dataset.ann_file)
    if not file.is_file():
        raise FileNotFoundError(f'no annotation file at {file}; set {key}.data_root and ann_file')
    if not file.stat().st_size:
        raise UserError(f'{file} is empty; {ACCEPTED}')
    metrics = _metrics(cfg, file, key)
    content, text = read_annotations(file)
    _check_categories(file, content, classes, key)
    if not cfg.get('check_files', True) or not _is_plain(type(dataset)):
        return []
    steps = (int(part) if part.isdigit() else part for part in key.split('.'))
    settings = reduce(lambda place, step: place[step], steps, cfg)
    masks = [each for each in settings.get('pipeline') or [] if each.get('with_mask')]
    reader = Reader(
        key=key,
        classes=classes,
        masks=bool(masks) or any('segm' in metric.get('metric', ()) for metric in metrics),
        polygons_alone=any(each.get('poly2mask') is False for each in masks),
        trains=key.startswith('train'),
    )
    images = Entries.of(file, content, 'images')
    notes, repairs = check_images(images, dataset.data_prefix.get('img') or '', key)
    for_submission = metrics and all(metric.get('format_only') for metric in metrics)
    if not for_submission or 'annotations' in content:
        of_annotations = check_annotations(file, content, reader)
        notes, repairs = (a + b for a, b in zip((notes, repairs), of_annotations, strict=True))
    if json.detect_encoding(text) != 'utf-8':
        repairs.append('it is plain UTF-8')
    if repairs:
        copy = Path(cfg.get('work_dir') or 'work_dirs', 'annotations', f'{key}_{file.name}')
        write_complete(copy, json.dumps(repaired(text, images.all, reader)).encode())
        for place in (settings, *(metric for metric in metrics if metric.get('ann_file'))):
            place['ann_file'] = str(copy.absolute())
        notes.append(f'{copy} is read in place of {file}: {"; ".join(repairs)}')
    return notes


def _is_plain(kind: type) -> bool:
    """Whether a class reads its file as mmdet's CocoDataset does; others have their own formats."""
    from mmdet.datasets import CocoDataset

    own = ('load_data_list', 'parse_data_info', 'COCOAPI')
    return all(getattr(kind, name, None) is getattr(CocoDataset, name) for name in own)


def _metrics(cfg: Config, file: Path, key: str) -> list[Mapping]:
    """The metrics of the split's evaluator that read this file, or none by themselves."""
    name = f'{key.partition("_")[0]}_evaluator'
    metrics = cfg.get(name) or []
    metrics = metrics.get('metrics', metrics) if isinstance(metrics, Mapping) else metrics
    metrics = [metrics] if isinstance(metrics, Mapping) else metrics
    files = [metric.get('ann_file') for metric in metrics]
    other = [each for each in files if each and Path(each).resolve() != file.resolve()]
    if other and not ('.datasets.' in key and len(other) < len(files)):  # each set has its own
        both = f'{name}.ann_file is {other[0]}, but {key} reads {file}'
        raise UserError(f'{both}: set both to the same file')
    return [metric for metric, each in zip(metrics, files, strict=True) if each not in other]


def _check_categories(file: Path, content: dict, classes: Sequence[str], key: str) -> None:
    if 'categories' not in content:
        raise UserError(f"{file} has no 'categories'; {ACCEPTED}")
    categories = Entries.of(file, content, 'categories')
    for field, kind in (('id', (int, float, str)), ('name', str)):
        bad = [each for each in categories.all if not isinstance(each.get(field), kind)]
        categories.refuse(field, bad, "is dict(id=1, name='one')")
    names = [category['name'] for category in categories.all]
    if missing := [name for name in classes if name not in set(names)]:
        lacks = f'{quoted(missing)}, which {file} does not have; it has {quoted(names)}'
        raise UserError(f'{key} asks for the categories {lacks}: set {key}.metainfo.classes')
    for field, alike in (('id', None), ('name', set(classes))):
        counts = Counter(
            each[field] for each in categories.all if not alike or each[field] in alike
        )
        for value in [value for value, count in counts.items() if count > 1][:1]:
            _refuse_twins(file, content, field, value)
    order = [name for name in names if name in set(classes)]
    if order != list(classes):  # labels follow the file, names the config
        other = f'another order than the categories of {file}, which would mix up the names'
        raise UserError(f'{key}.metainfo.classes has {other}; the order there is {tuple(order)}')


def _refuse_twins(file: Path, content: dict, field: str, value: object) -> None:
    """mmdet gives each of these categories a label, so that those of others shift."""
    ids = [each['id'] for each in content['categories'] if each[field] == value]
    entries = content.get('annotations') or []
    used = {str(entry.get('category_id')) for entry in entries if isinstance(entry, dict)}
    how = 'give each a name and an id of its own'
    if field == 'name' and (spare := [each for each in ids if str(each) not in used]):
        why = 'is a super-category without annotations, as in exports of Roboflow'
        how = f"the one with id {spare[0]!r} {why}: take it out of 'categories'"
    named = f'{field} {value!r} (ids {quoted(ids)})'
    raise UserError(f'{file}: {len(ids)} categories have the {named}; {how}')
