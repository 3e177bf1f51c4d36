"""Data that is not there, or does not go with the model, is one clear error before a run."""

from pathlib import Path

import pytest
from mmengine.config import Config

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
        match=r'model\.roi_head\.mask_head\.num_classes=80, but train_dataloader\.dataset has 3 '
        r"classes \('disc', .*: set model\.roi_head\.mask_head\.num_classes=3",
    ):
        check_data(cfg, ['train'])
    cfg = config('upernet', scenes)
    cfg.model.auxiliary_head.num_classes = 3
    with pytest.raises(ValueError, match=r'model\.auxiliary_head\.num_classes=3, .* has 4 classes'):
        check_data(cfg, ['train'])
    cascade = load_config(str(ROOT / 'configs/mask-rcnn/vit-b48_cascade-lsj-100e_coco.py'))
    cascade.model.roi_head.bbox_head[1].num_classes = 79
    with pytest.raises(ValueError, match=r'roi_head\.bbox_head\.1\.num_classes=79, .* 80 classes'):
        check_data(cascade, ['train'])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            {'model.backbone.patch_size': 14, 'model.backbone.img_size': 56},
            r'anchor_generator\.strides=\[4, 8, 16, 32, 64\], but of patches of 14 px the maps of '
            r'model\.neck have \[3\.5, 7\.0, 14\.0, 28\.0, 56\.0\]',
        ),
        (
            {'model.roi_head.mask_roi_extractor.featmap_strides': [8, 16, 32]},
            r'mask_roi_extractor\.featmap_strides=\[8, 16, 32\], .* have \[4\.0, 8\.0, 16\.0\]',
        ),
    ],
)
def test_strides_that_the_maps_do_not_have(change, words, scenes):
    cfg = config('mask-rcnn', scenes)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=words):
        check_data(cfg, ['train'])


def test_crops_of_another_size_than_the_positions(scenes):
    cfg = load_config(str(ROOT / 'configs/mirl/vit-test_2e.py'))
    cfg.train_dataloader.dataset.data_root = f'{scenes.root}/'
    assert check_data(cfg, ['train']) == []
    cfg.model.backbone.img_size = (128, 512)
    (note,) = check_data(cfg, ['train'])
    assert 'crops are 64x64 px (height x width), positions for 128x512' in note
    cfg.train_dataloader.dataset.pipeline[1].scale = [128, 512]
    assert check_data(cfg, ['train']) == []
    cfg.model.type = 'MAE'
    with pytest.raises(ValueError, match=r"img_size=\(128, 512\): mmpretrain's MAE takes squares"):
        check_data(cfg, ['train'])
