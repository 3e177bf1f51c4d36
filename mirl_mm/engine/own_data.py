"""``--data PATH``: data in usual layouts, as settings of a config's loaders, metrics and heads."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.fileio import exists, isdir, isfile, join_path

from mirl_mm.datasets.images import UnlabelledImages
from mirl_mm.datasets.listing import find_folders, is_image, numbered_lines, visible_files
from mirl_mm.errors import UserError, did_you_mean
from mirl_mm.files import write_complete

from .checks import datasets_of, places_of
from .checks.annotations import read_annotations
from .checks.coco_images import Entries

Made = tuple[dict[str, object], Sequence[str]]  # settings of a dataset, and its classes
VAL = 'val valid validation val2017'
NAMES = dict(train='train training train2017', val=f'{VAL} test', test=f'test {VAL}')
PICTURES = 'images/{} img_dir/{} {}/images'  # beside masks
MASKS = dict(images=('masks', 'annotations', 'labels'), img_dir=('ann_dir',))
COCO = 'annotations/instances_{}.json annotations/{}.json {}.json {}/_annotations.coco.json'


def use_data(cfg: Config, data: str, given: Mapping | None, splits: Sequence[str]) -> list[str]:
    """Point loaders and metrics of those splits, and heads, at ``data``; says what it sets.

    What is ``given`` by ``--cfg-options`` wins. ``cfg.work_dir`` takes the lists of what is held
    out. FileNotFoundError: nothing is there; UserError: it is not what the config's task takes.
    """
    path = data if '://' in data else os.path.expanduser(data).rstrip('/')
    if not exists(path):
        near = did_you_mean(Path(path).name, [each.name for each in Path(path).parent.glob('*')])
        raise FileNotFoundError(f'--data: no such file or folder: {path}{near}')
    task = 'classification' if cfg.model.get('type') == 'ImageClassifier' else 'pre-training'
    task = dict(mmdet='detection', mmseg='segmentation').get(cfg.get('default_scope'), task)
    read, layout = TASKS[task]
    root, where, parts, names = path, find_splits(path, layout), {}, ()
    if (is_json := Path(path).suffix.lower() == '.json') and task == 'detection':
        root = str(Path(path).parents[Path(path).parent.name == 'annotations'])
        where = dict.fromkeys(NAMES, os.path.relpath(path, root))
        parts['val'] = None  # it would prove nothing
    if where.keys() >= {*splits}:
        made = {each: read(root, each) for each in {where[split] for split in splits}}
        names = made[where[splits[0]]][1]
        parts = {split: made[where[split]][0] for split in splits} | parts
    elif task == 'pre-training' and not is_json and not (is_image(path) and isfile(path)):
        root, ann_file = os.path.split(os.path.abspath(path)) if isfile(path) else (path, '')
        if cfg.get('val_dataloader') or cfg.get('test_dataloader'):
            parts = hold_out(root, cfg.work_dir, ann_file)
        else:
            parts = dict.fromkeys(NAMES, _pictures(root, '')[0] | dict(ann_file=ann_file))
    if not parts or {} in parts.values():
        raise UserError(f'--data: {path} {_content(path)}; {task} takes {read.__doc__}')
    options = {}
    for split in splits:
        options |= _of_split(cfg, split, parts[split], names)
    for place, _ in places_of('num_classes', cfg.model, 'model') if names else ():
        options[f'{place}.num_classes'] = len(names)
    cfg.merge_from_dict(options)
    cfg.merge_from_dict(dict(given or {}))
    kept = (f'{key}={value!s:.200}' for key, value in options.items() if key not in (given or {}))
    told = groupby(kept, lambda each: each.partition('.')[0])
    return [f'--data sets {" ".join(each).replace(f" {part}.", " .")}' for part, each in told]


def hold_out(folder: str, work_dir: str | Path, ann_file: str = '') -> dict[str, dict[str, str]]:
    """Settings by split: of a folder, or a list in it, one picture in ten, 8 to 64, is held out."""
    paths = UnlabelledImages(folder, ann_file=ann_file, lazy_init=True).paths()
    names = [str(path).removeprefix(f'{folder.rstrip("/")}/') for path in paths]
    if len(names) < 16:
        raise UserError(f'{ann_file or folder} holds {len(names)} pictures; needed are at least 16')
    random.Random(0).shuffle(names)
    held, parts = min(max(len(names) // 10, 8), 64), {}
    for part, chosen in (('train', names[held:]), ('val', names[:held])):
        file = Path(work_dir).absolute() / f'pictures_{part}.txt'
        write_complete(file, ''.join(f'{name}\n' for name in chosen).encode())
        parts[part] = _pictures(folder, '')[0] | dict(ann_file=str(file))
    return parts | dict(test=parts['val'])


def _of_split(cfg: Config, split: str, part: Mapping | None, names: Sequence[str]) -> dict:
    """Options for one loader and its metrics, from the settings of its dataset."""
    loader, _, metric = keys = [f'{split}_{each}' for each in ('dataloader', 'cfg', 'evaluator')]
    if cfg.get(loader) is None or part is None:
        return dict.fromkeys(keys if cfg.get(loader) else ())
    (key, settings), *more = datasets_of(cfg[loader].dataset, f'{loader}.dataset')
    if more:
        raise UserError(f'--data: {loader} has {1 + len(more)} datasets; accepted is one')
    for other in ('metainfo', 'classes', 'ann_file', 'paths', 'reduce_zero_label'):
        settings.pop(other, None)  # of the config's own data
    if part['type'] in ('BaseSegDataset', 'CocoDataset'):
        part = part | {'metainfo.classes': tuple(names)}
    elif len(names) == 1000 and names[0] == 'n01440764' and settings.get('type') == 'ImageNet':
        part = part | dict(type='ImageNet')  # which has these in words
    options, metrics = {f'{key}.{name}': each for name, each in part.items()}, cfg.get(metric)
    for place, _ in places_of('ann_file', metrics or {}, metric):
        options[f'{place}.ann_file'] = os.path.join(part['data_root'], part['ann_file'])
    for place, ks in places_of('topk', metrics or {}, metric) if names else ():
        options[f'{place}.topk'] = tuple(k for k in np.atleast_1d(ks).tolist() if k <= len(names))
    return options


def _pictures(root: str, folder: str) -> Made:
    """a folder of pictures in any nesting or in train/ and val/, or a list of them"""
    return dict(type='UnlabelledImages', data_root=root, data_prefix=folder), ()


def _class_folders(root: str, folder: str) -> Made:
    """pictures in train/<class>/ and val/<class>/ (some of each class, moved there)"""
    names, _ = find_folders(join_path(root, folder))
    return dict(type='CustomDataset', data_root=root, data_prefix=folder) if names else {}, names


def _annotations(root: str, file: str) -> Made:
    """annotations/instances_{train,val}.json or {train,valid}/_annotations.coco.json, or a JSON"""
    path, part = Path(root, file), Path(file).stem.removeprefix('instances_')
    content, _ = read_annotations(path)
    first = str(Entries.of(path, content, 'images').all[0].get('file_name'))
    places = [os.path.dirname(file), part, f'images/{part}', 'images', '']
    if not (at := [each for each in places if Path(root, each, first).is_file()]):
        looked = ', '.join(str(Path(root, each)) for each in places)
        raise FileNotFoundError(f'--data: {path} names {first}, which is in none of {looked}')
    names = [str(each.get('name')) for each in Entries.of(path, content, 'categories').all]
    place = dict(type='CocoDataset', data_root=root, ann_file=file)
    return place | {'data_prefix.img': at[0]}, names


def _masks(root: str, images: str) -> Made:
    """images/train, masks/train, images/val, masks/val and classes.txt, one name a line"""
    if (masks := mask_folder(root, images)) is None:
        return {}, ()
    folders = {'data_prefix.img_path': images, 'data_prefix.seg_map_path': masks}
    settings = dict(type='BaseSegDataset', data_root=root) | folders
    for key, folder in (('img_suffix', images), ('seg_map_suffix', masks)):
        files = visible_files(join_path(root, folder), '', is_image, defaultdict(list))
        endings = Counter(os.path.splitext(name)[1] for name in files)
        settings[key] = max(endings or [''], key=endings.get)
    if not isfile(names := join_path(root, 'classes.txt')):
        raise FileNotFoundError(f'--data: no {names}: the names of values 0, 1, ... , one a line')
    return settings, [name for _, name in numbered_lines(names)]


TASKS = {  # who reads, and says in errors what a task takes; where the splits lie
    'pre-training': (_pictures, f'{PICTURES} {{}}'),
    'classification': (_class_folders, '{}'),
    'detection': (_annotations, COCO),
    'segmentation': (_masks, PICTURES),
}


def mask_folder(root: str, images: str) -> str | None:
    """Where in a root the masks of a folder of images lie; None: nowhere."""
    swaps = ((old, new) for old, news in MASKS.items() if old in images for new in news)
    masks = (name for swap in swaps if isdir(join_path(root, name := images.replace(*swap))))
    return next(masks, None)


def find_splits(path: str, layout: str) -> dict[str, str]:
    """The first place that is there for each split; validation and test stand in for each other."""
    found = {}
    for split, names in NAMES.items():
        places = (place.format(name) for place in layout.split() for name in names.split())
        found[split] = [place for place in places if exists(join_path(path, place))][:1]
    return {split: place for split, places in found.items() for place in places}


def _content(path: str) -> str:
    if isfile(path):
        return 'is a picture' if is_image(path) else 'is a file'
    if files := find_splits(path, COCO):
        return f'holds COCO annotations ({", ".join(dict.fromkeys(files.values()))})'
    count = sum(1 for _ in visible_files(path, '', is_image, defaultdict(list)))
    there = list(dict.fromkeys(find_splits(path, f'{PICTURES} {{}}').values()))
    folders, where = find_folders(join_path(path, *there[:1]))[0], ' in ' * bool(there)
    kinds = f'{len(folders)} class folder{"s" * (len(folders) > 1)} with ' if folders else ''
    return f'holds {kinds}{count} pictures{where}{", ".join(there)}'
