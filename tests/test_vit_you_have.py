"""The tables and commands of docs/vit-you-have.md are true."""

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import save_file

from mirl_mm.checkpoint import convert_file
from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import set_precision
from mirl_mm.models import MIRLViT
from mirl_mm.models.archs import ARCHS
from mirl_mm.models.block import Windows
from tests.processes import run_forked

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/vit-you-have.md').read_text()
PROSE = re.sub(r'```.*?```', '', PAGE, flags=re.DOTALL)
CODE = '\n'.join(re.findall(r'^    (.*)$', PROSE, re.MULTILINE)).replace('\\\n', ' ')
COMMANDS = [shlex.split(line) for line in CODE.splitlines()]
CONVERSIONS = [words for words in COMMANDS if words[0] == 'python']
TRAININGS = [words for words in COMMANDS if words[0] == 'tools/dist_train.sh']
(BLOCK,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


def table(first: str) -> list[list[str]]:
    """The rows below the header that starts with a cell."""
    rows = PAGE.split(f'| {first} |', 1)[1].split('\n\n')[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]


def options(words: list[str]) -> dict:
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_known_args(words)[0].cfg_options or {}


def test_the_page_has_what_is_tested():
    assert len(CONVERSIONS) == 3 and len(TRAININGS) == 5
    assert all(words[1] == 'tools/convert_checkpoint.py' for words in CONVERSIONS)
    assert len(COMMANDS) == 1 + len(CONVERSIONS) + len(TRAININGS)


def test_commands_go_together():
    """A config reads what a conversion wrote; an arch is that of the config."""
    written = {words[3]: words for words in CONVERSIONS}
    for words in TRAININGS:
        cfg = load_config(str(ROOT / words[1]), options(words))
        command = written[cfg.model.backbone.init_cfg.checkpoint]
        if '--arch' in command:
            assert command[command.index('--arch') + 1] == cfg.model.backbone.arch
        assert ('reg' in command[3]) == (cfg.model.backbone.get('num_registers') == 4)


def test_layer_decay():
    found = set()
    for task, folder in (('detection', 'mask-rcnn'), ('segmentation', 'upernet')):
        for path in (ROOT / 'configs' / folder).glob('vit-[!t]*.py'):
            cfg = Config.fromfile(path)
            vit, rate = cfg.model.backbone, cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
            found.add((task, ARCHS[vit.arch]['num_layers'], rate, vit.drop_path_rate))
    for task, blocks, decay, drop, source, first in table('task'):
        depth, rate = int(blocks), float(decay)
        assert f'{rate ** (depth + 1):.2g}' == f'{float(first):.2g}'
        given = (task, depth, rate, float(drop))
        assert given in found or (depth == 32 and 'ViT-H' in source)


def test_global_blocks():
    rows = table('blocks | global blocks (from 0)')
    init_default_scope('mmdet')
    depths = {ARCHS[arch]['num_layers']: arch for arch in ARCHS if arch != 'test'}
    assert [int(depth) for depth, _ in rows] == sorted(depths)
    for depth, blocks in rows:
        settings = dict(type='MIRLDenseViT', arch=depths[int(depth)], window_size=14)
        with torch.device('meta'):
            vit = MODELS.build(settings)
        assert vit.global_indices == [int(block) for block in blocks.split(',')]


def test_windows():
    configs = {
        'MAE, 224 px, and MIRL': 'configs/mask-rcnn/vit-l24_mae-lsj-100e_coco.py',
        'DINOv2, 518 px': 'configs/mask-rcnn/vit-b12_dinov2-lsj-100e_coco.py',
        'MAE ViT-H, 224 px': None,
    }
    rows = {row[0]: row[1:] for row in table('weights')}
    assert rows.keys() == configs.keys()
    for weights, (patch, image, grid, size, share) in rows.items():
        sides = [int(side) for side in grid.split(' x ')]
        assert sides == [int(image) / int(patch)] * 2
        windows = Windows(tuple(sides), int(size), extra=0)
        pairs = sum(count * patches**2 for count, patches in windows.shapes)
        assert f'{sides[0] ** 4 / pairs:.1f}' == share
        if configs[weights]:
            cfg = load_config(str(ROOT / configs[weights]))
            assert cfg.model.backbone.patch_size == int(patch)
            assert cfg.model.backbone.window_size == int(size)
            assert cfg.model.data_preprocessor.pad_size_divisor == int(image)
    assert rows['DINOv2, 518 px'][3] == str(518 // 14)
    assert rows['MAE ViT-H, 224 px'][3] == str(224 // 14)


def test_another_vit(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(BLOCK.replace("'configs/", f"'{ROOT}/configs/"))
    cfg = load_config(str(config))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert (backbone.embed_dims, backbone.num_layers, backbone.window_size) == (1280, 32, 16)
    assert tuple(backbone.patch_resolution) == (16, 16)
    assert not any('gamma' in name for name, _ in backbone.named_parameters())
    set_precision(cfg, amp=False, accelerator=False, bfloat16=False)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert min(group['lr'] for group in groups) == pytest.approx(1e-4 * 0.9**33)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    return write_scenes(tmp_path_factory.mktemp('page') / 'scenes', num_train=4, num_val=2)


def write_source(source: Path, registers: bool) -> None:
    """Weights of the test arch under the names of others: MAE's file, or DINOv2's folder."""
    torch.manual_seed(0)
    if source.suffix:
        state = {f'backbone.{name}': x for name, x in MIRLViT('test').state_dict().items()}
        torch.save(state, ours := source.with_name('ours.pth'))
        convert_file(ours, source, 'timm', arch='test')
        return
    name = f'vit_base_patch14_{"reg4_" if registers else ""}dinov2'
    vit = timm.create_model(name, img_size=70, embed_dim=48, depth=12, num_heads=4)
    source.mkdir()
    save_file(vit.state_dict(), source / 'model.safetensors')


@pytest.mark.dense
@pytest.mark.parametrize(('number', 'task'), [(0, 'upernet'), (1, 'upernet'), (2, 'mask-rcnn')])
def test_the_commands_at_small_size(number, task, scenes, tmp_path):
    """A conversion and a training behind it, with the test arch in place of the page's."""
    conversion, trained = CONVERSIONS[number], TRAININGS[(1, 3, 4)[number]]
    assert f'configs/{task}/' in trained[1]
    dinov2 = 'dinov2' in trained[1]
    write_source(tmp_path / conversion[2], 'reg' in conversion[3])
    (tmp_path / 'weights').mkdir()
    words = ['test' if word == 'l24' else word for word in conversion[2:]]
    (said,) = run_forked('convert_checkpoint.py', *words, cwd=tmp_path)
    assert '12 deep' in said and 'missing   none' in said
    given = dict(options(trained))
    given.setdefault('model.backbone.init_cfg.checkpoint', conversion[3])
    if dinov2:
        given.setdefault('model.backbone.num_registers', 0)
    lengths = ('train_cfg.max_iters', 'train_cfg.val_interval')
    given |= dict.fromkeys(lengths, 2)
    for split in ('train', 'val', 'test'):
        given[f'{split}_dataloader.dataset.data_root'] = f'{scenes.root}/'
        if task == 'mask-rcnn':
            given[f'{split}_evaluator.ann_file'] = str(scenes.annotations('val'))
    if task == 'mask-rcnn':
        given.pop('train_evaluator.ann_file')
    kind = 'dinov2-' if dinov2 else ''
    config = ROOT / f'configs/{task}/vit-test_{kind}20it_scenes.py'
    pairs = [f'{key}={value}' for key, value in given.items()]
    (log,) = run_forked('train.py', config, '--cfg-options', *pairs, cwd=tmp_path)
    metric = 'mIoU' if task == 'upernet' else 'coco/bbox_mAP'
    assert metric in log and 'loss' in log
