"""The configs and command lines of docs/dense.md do what the page says."""

import json
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mirl_mm.engine.checks import check_data
from mirl_mm.engine.launch import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/dense.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
COMMANDS = [
    command.replace('\\\n', ' ')
    for command in re.findall(r'^    (python tools/train\.py(?:.*\\\n)*.*)$', PAGE, re.MULTILINE)
]


def test_the_page_has_what_is_tested():
    assert len(BLOCKS) == 4 and len(COMMANDS) == 2
    assert 'configs/mask-rcnn' in BLOCKS[0] and 'configs/upernet' in BLOCKS[2]


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """data/mine as the page has it: two images of each kind of set."""
    root = tmp_path / 'data/mine'
    for folder in ('train', 'val', 'train2017', 'val2017', 'annotations', 'images/train'):
        (root / folder).mkdir(parents=True)
    for folder in ('images/val', 'masks/train', 'masks/val'):
        (root / folder).mkdir(parents=True)
    picture = Image.new('RGB', (60, 40), 'grey')
    for split in ('train', 'val'):
        for folder in (split, f'{split}2017', f'images/{split}'):
            picture.save(root / folder / '1.jpg')
        write_mask(root / f'masks/{split}/1.png', (0, 1))
        box = dict(id=1, image_id=1, bbox=[5, 5, 30, 20], area=600, iscrowd=0, category_id=1)
        box['segmentation'] = [[5, 5, 35, 5, 35, 25, 5, 25]]
        image = dict(id=1, file_name='1.jpg', width=60, height=40)
        content = dict(images=[image], annotations=[box])
        names = [dict(id=1, name='cat'), dict(id=2, name='dog')]
        (root / f'{split}.json').write_text(json.dumps(content | dict(categories=names)))
        coco = load_config(str(ROOT / 'configs/mask-rcnn/vit-b12_lsj-100e_coco.py'))
        init_default_scope('mmdet')
        from mmdet.datasets import CocoDataset

        names = [dict(id=i, name=n) for i, n in enumerate(CocoDataset.METAINFO['classes'], 1)]
        assert coco.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'
        file = root / f'annotations/instances_{split}2017.json'
        file.write_text(json.dumps(content | dict(categories=names)))
    monkeypatch.chdir(tmp_path)
    return root


def write_mask(file: Path, values: tuple[int, int]) -> None:
    mask = Image.new('L', (60, 40), values[0])
    mask.paste(values[1], (0, 0, 30, 40))
    mask.save(file)


def build(cfg: Config):
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def load(tmp_path: Path, *blocks: str) -> Config:
    config = tmp_path / 'mine.py'
    config.write_text('\n'.join(blocks).replace("'configs/", f"'{ROOT}/configs/"))
    return load_config(str(config))


def test_a_detector_of_ones_own(mine, tmp_path):
    own, shorter = BLOCKS[:2]
    assert len(own.strip().splitlines()) <= 10
    cfg = load(tmp_path, own, shorter)
    check_data(cfg, ['train', 'val', 'test'])
    assert build(cfg).roi_head.mask_head.num_classes == 2
    steps = cfg.param_scheduler[1]
    assert steps.end == cfg.train_cfg.max_iters
    assert [m / steps.end for m in steps.milestones] == [
        pytest.approx(0.889, abs=1e-3),
        pytest.approx(0.963, abs=1e-3),
    ]


@pytest.mark.parametrize('extra', ['', 'reduce_zero_label=True, ', "img_suffix='.jpg', "])
def test_a_segmentor_of_ones_own(mine, tmp_path, extra):
    own = BLOCKS[2].replace("data_root='data/mine/'", f"data_root='data/mine/', {extra}"[:-2])
    assert len(BLOCKS[2].strip().splitlines()) <= 10
    cfg = load(tmp_path, own)
    for mask in mine.glob('masks/*/*.png'):
        write_mask(mask, (1, 2) if 'reduce' in extra else (0, 1))
    assert check_data(cfg, ['train', 'val', 'test']) == []
    assert build(cfg).decode_head.num_classes == 2
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'BaseSegDataset' and len(dataset.pipeline) == 7


def options(command: str) -> tuple[str, dict]:
    parser = ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    parsed = parser.parse_args(shlex.split(command)[2:])
    return str(ROOT / parsed.config), parsed.cfg_options


def test_another_place_by_command_line(mine):
    cfg = load_config(*options(COMMANDS[0]))
    check_data(cfg, ['train', 'val'])


def test_boxes_alone_by_command_line():
    cfg = load_config(*options(COMMANDS[1]))
    model = build(cfg)
    assert not model.roi_head.with_mask and model.roi_head.with_bbox
    for loader in ('train_dataloader', 'val_dataloader'):
        (step,) = [s for s in cfg[loader].dataset.pipeline if s.type == 'LoadAnnotations']
        assert step.with_bbox and not step.with_mask


def test_the_settings_of_the_table_exist():
    """Every one is accepted by --cfg-options and reaches the model or the run."""
    named = re.findall(r'`((?:model|train_dataloader|optim_wrapper)\.[\w.]+)=(\w+)`', PAGE)
    assert len(named) >= 6
    numbers = dict(A='2', k='8', n='3', FILE='x.pth')
    given = {key: DictAction._parse_iterable(numbers.get(value, value)) for key, value in named}
    cfg = load_config(str(ROOT / 'configs/upernet/vit-b12_160k_ade20k-512.py'), given)
    backbone = build(cfg).backbone
    assert (backbone.with_cp, backbone.window_size, backbone.frozen_stages) == (True, 14, 3)
    assert cfg.optim_wrapper.accumulative_counts == 8 and cfg.train_dataloader.batch_size == 2


def test_windows_compare_as_many_pairs_as_the_page_says():
    from mirl_mm.models.block import Windows

    windows = Windows((64, 64), 14, extra=0)
    pairs = sum(count * patches**2 for count, patches in windows.shapes)
    assert f'{64**4 / pairs:.0f} times fewer' in PAGE
