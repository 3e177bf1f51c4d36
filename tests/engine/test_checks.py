"""Data that is not there, or does not go with the model, is one clear error before a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine.checks import check_data
from mirl_mm.engine.checks.coco import first_value
from mirl_mm.engine.launch import load_config

ROOT = Path(__file__).parents[2]
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    return write_scenes(tmp_path_factory.mktemp('scenes') / 'set', num_train=3, num_val=2, size=64)


def config(task: str, scenes: SceneSet) -> Config:
    cfg = load_config(str(ROOT / f'configs/{task}/vit-test_20it_scenes.py'))
    for loader in LOADERS:
        cfg[loader].dataset.data_root = f'{scenes.root}/'
    if task == 'mask-rcnn':
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(scenes.annotations('val'))
    return cfg


@pytest.mark.parametrize('task', ['mask-rcnn', 'upernet'])
def test_good_data_passes(task, scenes):
    cfg = config(task, scenes)
    before = cfg.to_dict()
    check_data(cfg, ['train', 'val', 'test'])
    assert cfg.to_dict() == before


def test_other_scopes_and_other_machines_are_left_alone(scenes):
    cfg = config('mask-rcnn', scenes)
    cfg.train_dataloader.dataset.data_root = 's3://bucket/set/'
    cfg.val_dataloader.dataset.backend_args = dict(backend='local')
    cfg.val_dataloader.dataset.ann_file = 'nowhere.json'
    check_data(cfg, ['train', 'val'])
    cfg.default_scope = 'mmpretrain'
    cfg.train_dataloader.dataset.data_root = 'nowhere/'
    check_data(cfg, ['train'])


def wrapped(dataset: dict) -> dict:
    return dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset])
    )


BAD_COCO = [
    (
        {'train_dataloader.dataset.ann_file': 'annotations/instances_trian.json'},
        FileNotFoundError,
        r'no annotation file at .*instances_trian\.json; set train_dataloader\.dataset\.data_root',
    ),
    (
        {'train_dataloader.dataset.data_root': 'data/nowhere/'},
        FileNotFoundError,
        r'no annotation file at data/nowhere/annotations/instances_train\.json',
    ),
    (
        {'train_dataloader.dataset.data_prefix.img': 'pictures/'},
        FileNotFoundError,
        r'lists 000001\.jpg, and there is no .*pictures/000001\.jpg; set .*data_prefix\.img',
    ),
    (
        {'val_dataloader.dataset.metainfo.classes': ('disc', 'rings', 'square')},
        ValueError,
        r"val_dataloader\.dataset asks for the categories 'rings', 'square', which "
        r".*instances_val\.json does not have; it has 'disc', 'ring', .*'star'",
    ),
    (
        {'train_dataloader.dataset.metainfo.classes': ('ring', 'disc')},
        ValueError,
        r"another order than the categories .* there is \('disc', 'ring'\)",
    ),
    (
        {'train_dataloader.dataset.metainfo.classes': 'disc'},
        ValueError,
        r"classes='disc' is one string; accepted are a tuple of names \(one name: \('disc',\)\)",
    ),
    (
        {'val_evaluator.ann_file': 'other.json'},
        ValueError,
        r'val_evaluator\.ann_file is other\.json, but val_dataloader\.dataset reads .*_val\.json',
    ),
]


@pytest.mark.parametrize(('changes', 'kind', 'message'), BAD_COCO)
@pytest.mark.parametrize('inside', [False, True], ids=['plain', 'wrapped'])
def test_bad_annotations(scenes, changes, kind, message, inside):
    cfg = config('mask-rcnn', scenes)
    for key in changes:  # the number of classes is another test's
        if key.endswith('classes'):
            number = len(changes[key])
            cfg.model.roi_head.bbox_head.num_classes = number
            cfg.model.roi_head.mask_head.num_classes = number
            other = 'val' if key.startswith('train') else 'train'
            cfg[f'{other}_dataloader'] = None
    cfg.merge_from_dict(changes)
    if inside:
        for loader in LOADERS:
            if cfg[loader]:
                cfg[loader].dataset = wrapped(cfg[loader].dataset)
        message = message.replace(r'dataset', r'dataset[.\w]*')
    with pytest.raises(kind, match=message):
        check_data(cfg, ['train', 'val'])


def test_another_number_of_classes(scenes):
    cfg = config('mask-rcnn', scenes)
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(
        ValueError,
        match=r'model\.roi_head\.mask_head\.num_classes=80, but train_dataloader\.dataset has 6 '
        r"classes \('disc', .*: set model\.roi_head\.mask_head\.num_classes=6",
    ):
        check_data(cfg, ['train'])
    cfg = config('upernet', scenes)
    cfg.model.auxiliary_head.num_classes = 6
    with pytest.raises(ValueError, match=r'model\.auxiliary_head\.num_classes=6, .* has 7 classes'):
        check_data(cfg, ['train'])
    cascade = load_config(str(ROOT / 'configs/mask-rcnn/vit-b48_cascade-lsj-100e_coco.py'))
    cascade.model.roi_head.bbox_head[1].num_classes = 79
    with pytest.raises(ValueError, match=r'roi_head\.bbox_head\.1\.num_classes=79, .* 80 classes'):
        check_data(cascade, ['train'])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', r'is empty; accepted are COCO annotations'),
        ('{"images": []}', r"has no 'categories'; accepted are COCO annotations"),
        ('{"categories": [{"id": 1, "na', r'is no valid JSON'),
    ],
)
def test_a_file_that_is_no_annotations(scenes, tmp_path, content, message):
    cfg = config('mask-rcnn', scenes)
    cfg.train_dataloader.dataset.ann_file = str(tmp_path / 'file.json')
    (tmp_path / 'file.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ['train'])


def test_values_of_a_large_file_are_found(tmp_path):
    """The categories come last in COCO's files; long ones are read in more than one go."""
    categories = [dict(id=i, name=f'category {i}' * 20) for i in range(20_000)]
    content = dict(annotations=[0] * 100_000, images=[dict(file_name='a b.jpg')])
    (tmp_path / 'file.json').write_text(json.dumps(content | dict(categories=categories), indent=1))
    assert first_value(tmp_path / 'file.json', 'categories') == categories
    assert first_value(tmp_path / 'file.json', 'file_name') == 'a b.jpg'
    assert first_value(tmp_path / 'file.json', 'licenses') is None


def without_the_first_mask(root: Path) -> None:
    (root / 'masks/train/000001.png').unlink()


def in_colour(root: Path) -> None:
    for file in (root / 'masks/train').glob('*.png'):
        Image.open(file).convert('RGB').save(file)


def with_16_bits(root: Path) -> None:
    for file in (root / 'masks/train').glob('*.png'):
        Image.fromarray(np.full((64, 64), 300, np.uint16)).save(file)


BAD_MASKS = [
    (
        {'train_dataloader.dataset.data_prefix.img_path': 'pictures'},
        None,
        FileNotFoundError,
        r'no folder .*/pictures; set train_dataloader\.dataset\.data_root and .*img_path',
    ),
    (
        {'train_dataloader.dataset.data_prefix.seg_map_path': 'labels'},
        None,
        FileNotFoundError,
        r'no folder .*/labels; set .*seg_map_path',
    ),
    (
        {'train_dataloader.dataset.img_suffix': '.png'},
        None,
        FileNotFoundError,
        r"no image in .*images/train ends in '\.png'; set train_dataloader\.dataset\.img_suffix",
    ),
    (
        {'train_dataloader.dataset.ann_file': 'train.txt'},
        None,
        FileNotFoundError,
        r'no list of images at .*train\.txt; set train_dataloader\.dataset\.ann_file',
    ),
    (
        {},
        without_the_first_mask,
        FileNotFoundError,
        r'1 of 3 images in .* have no mask; the first is 000001\.jpg, whose mask would be .*png',
    ),
    ({}, in_colour, ValueError, r'000001\.png is an image of mode RGB; accepted are masks of one'),
    ({}, with_16_bits, ValueError, r'of mode I;16; accepted are masks of one 8-bit channel'),
    (
        {'train_dataloader.dataset.metainfo': dict(_delete_=True)},
        None,
        ValueError,
        r'train_dataloader\.dataset names no classes: give train_dataloader\.dataset\.metainfo',
    ),
]


@pytest.mark.parametrize(('changes', 'damage', 'kind', 'message'), BAD_MASKS)
def test_bad_masks(tmp_path, changes, damage, kind, message):
    scenes = write_scenes(tmp_path / 'set', num_train=3, num_val=1, size=64)
    cfg = config('upernet', scenes)
    cfg.merge_from_dict(changes)
    if damage:
        damage(scenes.root)
    with pytest.raises(kind, match=message):
        check_data(cfg, ['train'])
