"""Data that is not there, or does not go with the model, is one clear error before a run."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine.checks import check_data
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
