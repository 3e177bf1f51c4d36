"""128 x 512 px from a config to what starts from its encoder, as docs/pretraining.md has it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mirl_mm.apps.depth import probe_depth
from mirl_mm.apps.plan import plan
from mirl_mm.apps.probes import run_knn
from mirl_mm.apps.reconstruct import reconstruct_pictures
from mirl_mm.checkpoint import EncoderArch, convert_file, load_weights, open_checkpoint
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.engine import launch
from mirl_mm.engine.hooks import KNNHook
from mirl_mm.engine.launch import build_runner, load_config, training_config
from mirl_mm.measure.features import Loading
from mirl_mm.models import MIRLDenseViT, MIRLViT
from tests.class_folders import COLOURS, write_classes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/pretraining.md').read_text()
(BLOCK,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
CLASSES = str(ROOT / 'configs/finetune/vit-test_2e_classes.py')
GRID, FEW = (8, 32), Loading(batch_size=4, num_workers=0)


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> tuple[Path, Path]:
    """The page's config on the test arch, and the work dir of its two steps, with k-NN behind."""
    root = tmp_path_factory.mktemp('wide')
    base = "_base_ = 'configs/mirl/vit-b12_300e.py'"
    assert base in BLOCK
    test = base.replace('configs', f'{ROOT}/configs').replace('b12_300e', 'test_2e')
    config = root / 'wide.py'
    config.write_text(BLOCK.replace(base, test) + 'val_dataloader = test_dataloader\n')
    scenes = write_scenes(root / 'scenes', num_train=4, num_val=2, size=128)
    folders = [write_classes(root / name, count=3, seed=i) for i, name in enumerate('ab')]
    given = {
        f'{split}_dataloader.dataset.data_root': f'{scenes.root}/'
        for split in ('train', 'val', 'test')
    }
    given |= {'train_dataloader.batch_size': 2, 'train_cfg.max_epochs': 1}
    given |= {'train_dataloader.num_workers': 0, 'default_hooks.panel.images': 2}
    given |= {'experiment_name': root.name}
    cfg, notes = training_config(str(config), str(root / 'run'), cfg_options=given)
    assert not [note for note in notes if 'crops' in note]
    runner = build_runner(cfg, notes)
    runner.register_hook(KNNHook(*folders, ks=[3], batch_size=4, num_workers=0))
    runner.train()
    assert runner.iter == 2
    return config, root / 'run'


def positions(file: Path) -> torch.Tensor:
    state = open_checkpoint(file).state
    return next(x for name, x in state.items() if name.endswith('pos_embed'))


def test_what_a_run_leaves(run):
    _, work_dir = run
    for name in ('epoch_1.pth', 'encoder.pth'):
        arch = EncoderArch.of_meta(open_checkpoint(work_dir / name).meta)
        assert (arch.img_size, arch.grid, arch.positions) == ((128, 512), GRID, 257)
        assert positions(work_dir / name).shape == (1, 257, 48)
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'knn/avg_k3' in log
    (held,) = re.findall(r'recon/error: ([\d.]+)', log)
    assert 0.5 < float(held) < 2
    panels = sorted(work_dir.glob('*/vis_data/vis_image/panel_*.png'))
    width, height = Image.open(panels[-1]).size
    # 5 + 2 * 3 columns of 128 x 32 px, gaps of 2, and a header of 16
    assert (width, height) == (11 * 130 - 2, 16 + 2 * 34 - 2)


def test_probes(run, tmp_path):
    config, work_dir = run
    train = write_classes(tmp_path / 'train', count=5)
    val = write_classes(tmp_path / 'val', count=5, seed=1)
    cfg, file = load_config(str(config)), str(work_dir / 'encoder.pth')
    own = Config(dict(model=cfg.model, default_scope='mmpretrain'), filename=str(config))
    for i, each in enumerate((cfg, own)):  # with the config's preparation, and without one
        rows = probe_depth(each, [file], train, val, tmp_path / f'{i}', every=6, k=3, loading=FEW)
        assert [row['block'] for row in rows] == [6, 12]
        assert all(row['linear'] == 100 for row in rows)  # the classes are colours
    found = run_knn(str(config), file, train, val, ks=[3], loading=FEW)
    assert found['avg_k3'] == 100


def test_pictures(run, tmp_path):
    config, work_dir = run
    Image.fromarray(np.zeros((60, 300, 3), np.uint8) + 90).save(tmp_path / 'wide.png')
    lines = reconstruct_pictures(
        str(config), str(work_dir / 'epoch_1.pth'), str(tmp_path / 'wide.png'), str(tmp_path / 'o')
    )
    (line,) = lines
    assert 'error' in line
    assert Image.open(tmp_path / 'o/wide.png').size == (11 * 258 - 2, 32 + 64)


def test_a_plan(run):
    """As much as for a square of as many patches."""
    wide, square = (
        plan(str(run[0]), gpus=1, images=64, cfg_options={'model.backbone.img_size': size})
        for size in ((128, 512), 256)
    )
    assert wide.linear_macs == square.linear_macs > 256 * 12 * 12 * 48**2
    assert wide.flops == square.flops
    assert wide.memory == square.memory


@pytest.mark.parametrize('to', ['mirl', 'backbone'])
@pytest.mark.parametrize('kind', [MIRLViT, MIRLDenseViT])
def test_converted_and_back(run, tmp_path, to, kind):
    """Into a rectangle bit by bit, and resized from the grid into a square."""
    _, work_dir = run
    account = convert_file(work_dir / 'epoch_1.pth', tmp_path / 'out.pth', to)
    assert any('positions of 128x512 px' in line for line in account)
    stored = EncoderArch.of_meta(open_checkpoint(tmp_path / 'out.pth').meta)
    assert stored.grid == GRID
    given = positions(work_dir / 'encoder.pth')
    wide, square = kind('test', (128, 512)), kind('test', 64)
    for vit in (wide, square):
        load_weights(vit, tmp_path / 'out.pth')
    assert torch.equal(wide.pos_embed, given)
    resized = square.resize_pos_embed(given, GRID, (4, 4), square.interpolate_mode, 1)
    assert torch.equal(square.pos_embed, resized)
    settings = dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth'))
    settings |= dict(prefix='backbone.') if to == 'mirl' else {}
    started = kind('test', 64, init_cfg=settings)
    started.init_weights()
    assert torch.equal(started.pos_embed, resized)
    imgs = torch.rand(1, 3, 128, 512)
    assert wide.eval()(imgs)[0].isfinite().all()


def test_averaged_weights_are_resized_from_the_grid_as_well(tmp_path):
    """4 x 16 patches are as many as 8 x 8, and EMAHook loads a copy of its own."""
    own = {'model.backbone.init_cfg': None, 'model.backbone.img_size': [64, 256]}
    init_default_scope('mmpretrain')
    model = MODELS.build(load_config(CLASSES, own).model)
    model.init_weights()
    meta = dict(arch=EncoderArch.of_module(model.backbone).to_meta())
    meta['dataset_meta'] = dict(classes=['blue', 'green', 'grey', 'red'])
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'wide.pth')
    write_classes(tmp_path / 'val', COLOURS, count=2)
    given = {'test_dataloader.dataset.data_root': str(tmp_path), 'model.backbone.img_size': 128}
    given['experiment_name'] = tmp_path.name
    cfg, notes = launch.testing_config(
        CLASSES, str(tmp_path / 'wide.pth'), str(tmp_path / 'run'), cfg_options=given
    )
    runner = build_runner(cfg, notes)
    runner.test()
    vit = model.backbone
    wanted = vit.resize_pos_embed(vit.pos_embed, (4, 16), (8, 8), vit.interpolate_mode, 1)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    for each in (runner.model, hook.ema_model.module):
        assert torch.equal(each.backbone.pos_embed, wanted)


def test_a_grid_that_nobody_stored(run, tmp_path):
    """256 patches are a square's, as far as a file without meta tells: it says so of the size."""
    _, work_dir = run
    torch.save(open_checkpoint(work_dir / 'encoder.pth').state, tmp_path / 'bare.pth')
    account = convert_file(tmp_path / 'bare.pth', tmp_path / 'out.pth')
    assert any('positions of 256x256 px' in line for line in account)
