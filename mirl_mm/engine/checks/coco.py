"""Files in COCO's format: categories against a config's classes, and who reads which file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.errors import UserError
from mirl_mm.files import write_complete

from .annotations import check_annotations, read_annotations, repair
from .coco_images import Entries, check_images, repeated

ACCEPTED = 'accepted are COCO annotations (instances)'


def check_coco(
    cfg: Config, settings: dict, dataset: BaseDataset, classes: Sequence[str], key: str
) -> list[str]:
    """Are annotations and images there and sound, and do names and their order agree?

    With ``check_files`` the file is read whole and headers of its images are. What can be repaired
    without a doubt is, in a copy below the work dir, to which config and settings then point.
    """
    file = Path(dataset.ann_file)
    if not file.is_file():
        raise FileNotFoundError(f'no annotation file at {file}; set {key}.data_root and ann_file')
    if not file.stat().st_size:
        raise UserError(f'{file} is empty; {ACCEPTED}')
    metrics = _metrics(cfg, file, key)
    content, encoding = read_annotations(file)
    _check_categories(file, content, classes, key)
    if not cfg.get('check_files', True) or not _is_plain(type(dataset)):
        return []
    masks = any(step.get('with_mask') for step in settings.get('pipeline') or [])
    masks = masks or any('segm' in metric.get('metric', ()) for metric in metrics)
    images = Entries.of(file, content, 'images')
    notes, repairs = check_images(images, dataset.data_prefix.get('img') or '', key), []
    for_submission = metrics and all(metric.get('format_only') for metric in metrics)
    if not for_submission or 'annotations' in content:
        more, repairs = check_annotations(file, content, classes, masks, '.datasets.' not in key)
        notes += more
    if encoding != 'utf-8':
        repairs.append('it is plain UTF-8')
    if repairs:
        copy = Path(cfg.get('work_dir') or 'work_dirs', 'annotations', f'{key}_{file.name}')
        repair(content)
        write_complete(copy, json.dumps(content).encode())
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
    asked_for = [each for each in categories.all if each['name'] in set(classes)]
    for field, entries in (('id', categories.all), ('name', asked_for)):
        for twin in repeated(entries, field)[:1]:
            _refuse_twins(file, content, field, twin[field])
    order = [each['name'] for each in asked_for]
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
