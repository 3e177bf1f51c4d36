"""Before anything is built: is the data there, and does it go together and with the model?

Without it a run trains on the categories that it happens to find, labels shift in silence, or it
ends in a traceback. An error here names the file, the entry in it and the setting.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import to_2tuple

from mirl_mm.datasets.class_folders import check_labelled, quoted
from mirl_mm.datasets.images import UnlabelledImages
from mirl_mm.datasets.listing import visible_files
from mirl_mm.errors import UserError

from .coco import check_coco
from .masks import check_masks, check_one_class

READERS = ('LoadImageFromFile', 'LoadAnyImage', 'LoadRandomResizedCrop')
SWAPS = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')


def check_data(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Hold the data of those splits ('train', 'val', 'test') against its files and the model.

    That is class folders and lists of an ImageClassifier and, in the scopes of mmdet and mmseg,
    annotations in COCO's format and folders of masks, also inside wrappers such as RepeatDataset.
    Folders are listed, masks opened and annotations read. What is not where the config says is a
    FileNotFoundError, what does not go together a UserError; what the user should know beside these
    is returned, a line each.
    """
    scope, found, notes = cfg.get('default_scope') or 'mmpretrain', {}, []
    for name in (f'{split}_dataloader' for split in splits):
        if cfg.get(name):
            found |= datasets_of(cfg[name].dataset, f'{name}.dataset')
    with DefaultScope.overwrite_default_scope(scope):
        if (cfg.get('model') or {}).get('type') == 'ImageClassifier':
            notes += check_labelled(cfg.model, found, cfg.get('check_files', True))
            head = cfg.model.get('head') or {}
            by_sigmoid = (head.get('loss') or {}).get('use_sigmoid') or 'Multi' in str(head)
            if head.get('num_classes') == 1 and not by_sigmoid:
                one = 'model.head.num_classes=1: nothing to tell one class from, and the loss is 0'
                raise UserError(f'{one}; accepted are two classes or more')
        elif scope == 'mmpretrain':
            for key, settings in found.items():
                _check_unlabelled(key, settings)
                notes += _check_crops(cfg.get('model') or {}, settings, key)
        elif scope in ('mmdet', 'mmseg'):
            check_strides(cfg.model)
            for key, settings in found.items():
                notes += _check_dense(cfg, key, settings)
    return notes


def datasets_of(settings: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The datasets inside wrappers, each with its place in the config."""
    if isinstance(settings.get('dataset'), Mapping):
        yield from datasets_of(settings['dataset'], f'{key}.dataset')
    elif 'datasets' in settings:
        for i, inner in enumerate(settings['datasets']):
            yield from datasets_of(inner, f'{key}.datasets.{i}')
    else:
        yield key, settings


def _check_unlabelled(key: str, settings: Mapping) -> None:
    """Is there the folder of UnlabelledImages, or its list, and an image in it?"""
    kind = settings.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    by_folder = getattr(kind, 'paths', None) is UnlabelledImages.paths
    if not by_folder or settings.get('paths') is not None:
        return
    dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=[]))
    folder = dataset.img_prefix
    if not folder or '://' in folder:
        return
    how = f'set {key}.data_root and data_prefix'
    if key.startswith('val'):
        how += ', or no validation: val_dataloader=None val_cfg=None val_evaluator=None'
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'no such folder of images: {folder}; {how}')
    shown = visible_files(folder, '', dataset.is_valid_file, defaultdict(list))
    if not dataset.ann_file and next(shown, None) is None:
        accepted = ', '.join(sorted(dataset.extensions))
        raise UserError(f'no image in {folder}; accepted are files that end in {accepted}; {how}')


def _check_crops(model: Mapping, settings: Mapping, key: str) -> Iterator[str]:
    """A line on random crops of another size than that of the positions. MAE refuses rectangles."""
    size = tuple(to_2tuple((model.get('backbone') or {}).get('img_size', 224)))
    if model.get('type') == 'MAE' and size[0] != size[1]:
        raise UserError(f"model.backbone.img_size={size}: mmpretrain's MAE takes squares alone")
    for i, step in enumerate(settings.get('pipeline') or []):
        scaled = 'RandomResizedCrop' in str(step.get('type')) and step.get('scale')
        if scaled and (crop := tuple(to_2tuple(scaled))) != size:
            sizes = '{}x{} px (height x width), positions for {}x{}'.format(*crop, *size)
            how = f'{key}.pipeline.{i}.scale and model.backbone.img_size set the two'
            yield f'crops are {sizes}: these are resized in every step; {how}'


def check_strides(model: Mapping) -> None:
    """UserError where a detector's heads are told other strides than MIRLPyramid's maps have."""
    neck, backbone = model.get('neck') or {}, model.get('backbone') or {}
    if not str(neck.get('type')).endswith('MIRLPyramid'):
        return
    patch = backbone.get('patch_size', 16)
    maps = [stride * patch / 16 for stride in neck.get('strides', (4, 8, 16, 32))]
    for key in ('strides', 'featmap_strides'):
        for place, given in places_of(key, model, 'model'):
            if place != 'model.neck' and [*given] != (true := maps[: len(given)]):
                wrong = f'{place}.{key}={given}, but of patches of {patch} px'
                raise UserError(f'{wrong} the maps of model.neck have {true} (in pixels)')


def _check_dense(cfg: Config, key: str, settings: Mapping) -> list[str]:
    kind = settings.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the default scope
            kind = registry.get(kind)
    is_coco, has_masks = (hasattr(kind, name) for name in ('COCOAPI', 'get_label_map'))
    if not is_coco and not has_masks:
        return []
    classes = _class_names(kind, settings, key)
    if has_masks:
        check_one_class(cfg.model, classes, key)
    for place, number in places_of('num_classes', cfg.model, 'model'):
        if number != len(classes):
            has = f'{key} has {len(classes)} classes ({quoted(classes)})'
            how = f'set {place}.num_classes={len(classes)}, or name other classes in {key}.metainfo'
            raise UserError(f'{place}.num_classes={number}, but {has}: {how}')
    paths = f'{settings.get("data_root")}{settings.get("ann_file")}'
    if settings.get('backend_args') or '://' in paths:
        return []  # the files are elsewhere
    try:  # nothing is read yet, but paths are joined and defaults filled in
        steps = settings.get('pipeline') or []
        steps = [step for step in steps if has_masks and 'Load' in str(step)]
        dataset = DATASETS.build(dict(settings, lazy_init=True, pipeline=steps))
    except ValueError as error:  # classes that are no part of the dataset's own
        raise UserError(f'{key}: {error}') from error
    if has_masks:
        return check_masks(cfg, dataset, classes, key)
    return check_coco(cfg, settings, dataset, classes, key)


def _class_names(kind: type[BaseDataset], settings: Mapping, key: str) -> Sequence[str]:
    given = (settings.get('metainfo') or {}).get('classes', kind.METAINFO.get('classes'))
    if not given:
        wanted = f"{key}.metainfo=dict(classes=('one', 'two', ...))"
        raise UserError(f'{key} names no classes: give {wanted}')
    if isinstance(given, str) and not Path(given).is_file():
        accepted = f'a tuple of names (one name: ({given!r},)) or a file with one name a line'
        raise UserError(f'{key}.metainfo.classes={given!r} is one string; accepted are {accepted}')
    return kind._load_metainfo(dict(classes=given))['classes']


def places_of(key: str, settings: Mapping | Sequence, place: str) -> Iterator[tuple[str, object]]:
    """Every place that has the key, and its value: ``num_classes`` of heads; an RPN is left out."""
    for name, value in settings.items() if isinstance(settings, Mapping) else enumerate(settings):
        if name == key and not place.endswith('.rpn_head'):
            yield place, value
        elif isinstance(value, Mapping | list | tuple):
            yield from places_of(key, value, f'{place}.{name}')


def channels_of(pipeline: Sequence[Mapping]) -> int | None:
    """As many as its reader is asked for; None: RGB, or another reader."""
    return next((step['channels'] for step in pipeline if 'channels' in step), None)


def check_channels(cfg: Mapping) -> None:
    """UserError where a config's parts differ, which broadcasting might hide."""
    model = cfg.get('model') or {}
    norm = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    wanted = (model.get('backbone') or {}).get('in_channels', 3)
    encoder = f'model.backbone.in_channels={wanted}'
    loaders = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
    loaders = {name: (cfg.get(name) or {}).get('dataset') or {} for name in loaders}
    parts = ((name, part) for name in loaders for _, part in datasets_of(loaders[name], name))
    for name, settings in parts:
        pipeline = settings.get('pipeline') or [{}]
        if (read := channels_of(pipeline)) is not None and any(map(norm.get, SWAPS)):
            why = f'{name} reads channels={read} in the order of the file'
            raise UserError(f'{why}: set {" and ".join(SWAPS[:2])} of data_preprocessor to False')
        if read is None and pipeline[0].get('type') in READERS and 'color_type' not in pipeline[0]:
            read = 3
        if read not in (None, wanted):
            how = f'set channels={wanted} where its pipeline reads, or in_channels={read}'
            raise UserError(f'{name} reads {read} channels, but {encoder}: {how}')
    for key in ('mean', 'std'):
        if norm.get(key) is not None and len(norm[key]) not in (1, wanted):
            has = f'model.data_preprocessor.{key} has {len(norm[key])} values'
            raise UserError(f'{has}, but {encoder}: accepted are as many, or 1')
