"""Before anything is built: is the data there, and does it go together and with the model?

Without it a run trains on what is left of the categories that it happens to find, labels shift in
silence, or it ends in a traceback that names neither file nor setting. An error here names the
file, the entry in it and the setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mirl_mm.datasets.class_folders import check_labelled
from mirl_mm.errors import UserError

from .coco import check_coco, check_metric, quoted
from .masks import check_masks

DENSE = ('mmdet', 'mmseg')  # scopes


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Hold the data of a config against its files and its model.

    Looked at are the class folders and lists of an ImageClassifier and, in the scopes of mmdet and
    mmseg, annotations in COCO's format and folders of masks, also inside wrappers such as
    RepeatDataset; all else is left alone. Folders are listed, one mask is opened, and of
    annotations the categories alone are read.

    Args:
        cfg: a whole config.
        splits: of 'train', 'val' and 'test', those that will be loaded.

    Raises:
        FileNotFoundError: folders, lists, annotations, masks or images are not where it says.
        UserError: they do not go together, or not with the model.
    """
    scope = cfg.get('default_scope') or 'mmpretrain'
    found = [
        (split, key, settings)
        for split in splits
        if (loader := cfg.get(f'{split}_dataloader'))
        for key, settings in _datasets(loader.dataset, f'{split}_dataloader.dataset')
    ]
    with DefaultScope.overwrite_default_scope(scope):
        if (cfg.get('model') or {}).get('type') == 'ImageClassifier':
            check_labelled(cfg.model, {key: settings for _, key, settings in found})
        elif scope in DENSE:
            for split, key, settings in found:
                _check_dense(cfg, split, key, settings)


def _datasets(settings: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The datasets inside wrappers, each with its place in the config."""
    if isinstance(settings.get('dataset'), Mapping):
        yield from _datasets(settings['dataset'], f'{key}.dataset')
    elif 'datasets' in settings:
        for i, inner in enumerate(settings['datasets']):
            yield from _datasets(inner, f'{key}.datasets.{i}')
    else:
        yield key, settings


def _check_dense(cfg: Config, split: str, key: str, settings: Mapping) -> None:
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
        check_metric(cfg.get(f'{split}_evaluator'), dataset, split, key)
    else:
        check_masks(dataset, key)


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


def _class_numbers(settings: object, place: str) -> Iterator[tuple[str, int]]:
    """Every head's ``num_classes`` in a model's config, with its place; an RPN's does not count."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name == 'num_classes' and place.split('.')[-1] != 'rpn_head':
                yield place, value
            else:
                yield from _class_numbers(value, f'{place}.{name}')
    elif isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from _class_numbers(value, f'{place}.{i}')
