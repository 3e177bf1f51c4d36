"""Before anything is built: is the data there, and does it go together and with the model?

Without it a run trains on what is left of the categories that it happens to find, labels shift in
silence, or it ends in a traceback. An error here names the file, the entry in it and the setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mirl_mm.datasets.class_folders import check_labelled
from mirl_mm.errors import UserError

from .coco import check_coco, check_metric, quoted


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Hold the data of those splits ('train', 'val', 'test') against its files and the model.

    Looked at are the class folders and lists of an ImageClassifier and, in the scopes of mmdet and
    mmseg, annotations in COCO's format and folders of masks, also inside wrappers such as
    RepeatDataset; all else is left alone. Folders are listed, one mask is opened, and of
    annotations the categories alone are read. What is not where the config says is a
    FileNotFoundError, what does not go together, or not with the model, a UserError.
    """
    scope = cfg.get('default_scope') or 'mmpretrain'
    found: dict[str, Mapping] = {}
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
            raise UserError(
                f'{place}.num_classes={number}, but {key} has {len(classes)} classes '
                f'({quoted(classes)}): set {place}.num_classes={len(classes)}, or name other '
                f'classes in {key}.metainfo'
            )
    paths = f'{settings.get("data_root")}{settings.get("ann_file")}'
    if settings.get('backend_args') or '://' in paths:
        return  # the files are elsewhere
    try:  # nothing is read yet, but paths are joined and defaults filled in
        dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
    except ValueError as error:  # classes that are no part of the dataset's own
        raise UserError(f'{key}: {error}') from error
    if is_coco:
        check_coco(dataset, classes, key)
        check_metric(cfg, dataset, key)
    else:
        _check_masks(dataset, key)


def _class_names(kind: type[BaseDataset], settings: Mapping, key: str) -> Sequence[str]:
    given = (settings.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if not given:
        wanted = f"{key}.metainfo=dict(classes=('one', 'two', ...))"
        raise UserError(f'{key} names no classes: give {wanted}')
    if isinstance(given, str) and not Path(given).is_file():
        raise UserError(
            f'{key}.metainfo.classes={given!r} is one string; accepted are a tuple of names (one '
            f'name: ({given!r},)) or a file with one name a line'
        )
    return kind._load_metainfo(dict(classes=given))['classes']


def _class_numbers(settings: Mapping | Sequence, place: str) -> Iterator[tuple[str, int]]:
    """Every head's ``num_classes`` in a model's config, with its place; an RPN's does not count."""
    inside = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
    for name, value in inside:
        if name == 'num_classes' and place.split('.')[-1] != 'rpn_head':
            yield place, value
        elif isinstance(value, Mapping | list | tuple):
            yield from _class_numbers(value, f'{place}.{name}')


def _check_masks(dataset: BaseDataset, key: str) -> None:
    """Has every image of mmseg's dataset, which is not read yet, a mask, and holds that classes?"""
    images, masks = (dataset.data_prefix.get(part) for part in ('img_path', 'seg_map_path'))
    for part, folder in (('img_path', images), ('seg_map_path', masks)):
        if not folder or not Path(folder).is_dir():
            wanted = f'set {key}.data_root and {key}.data_prefix.{part}'
            raise FileNotFoundError(f'no folder {folder}; {wanted}')
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        raise FileNotFoundError(f'no list of images at {dataset.ann_file}; set {key}.ann_file')
    listed = dataset.load_data_list()
    if not listed:
        suffix = f'{dataset.img_suffix!r}; set {key}.img_suffix'
        raise FileNotFoundError(f'no image in {images} ends in {suffix}')
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
