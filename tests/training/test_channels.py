"""The shipped configs of 5 channels: trained, validated, tested and painted as a user does it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image

from mirl_mm.apps.predict import predict_pictures
from mirl_mm.checkpoint import convert_file, read_checkpoint, write_checkpoint
from mirl_mm.demo.scene_set import write_bands, write_scenes
from mirl_mm.engine.launch import build_runner, load_config, training_config
from mirl_mm.errors import UserError
from tests.processes import run_forked

pytestmark = pytest.mark.xdist_group('channels')  # one worker: the runs are shared

CONFIGS = Path(__file__).parents[2] / 'configs'
PRETRAIN = CONFIGS / 'mirl/vit-test_2e_5-channels.py'
SEGMENT = CONFIGS / 'upernet/vit-test_20it_5-channels.py'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    written = write_scenes(tmp_path_factory.mktemp('data') / 'scenes', 8, 2)
    assert write_bands(written) == written.root / 'bands'
    return written.root


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory, scenes) -> tuple[Path, str]:
    """Work dir and output of one epoch of 2 steps, with validation and a panel."""
    root = tmp_path_factory.mktemp('pretrained')
    given = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=4', 'randomness.seed=0']
    given += [f'{loader}_dataloader.dataset.data_root={scenes}' for loader in ('train', 'val')]
    given += ['param_scheduler=[]', 'default_hooks.panel.interval=1']
    (said,) = run_forked('train.py', PRETRAIN, '--cfg-options', *given, cwd=root)
    return root / 'work_dirs' / PRETRAIN.stem, said


def first_layer(encoder: Path) -> torch.Tensor:
    return read_checkpoint(encoder)[0]['backbone.patch_embed.projection.weight']


def test_a_step_of_pre_training_and_its_validation(pretrained):
    work_dir, said = pretrained
    found = re.search(r'Epoch\(val\) \[1\]\[\d+/\d+\] +recon/error: ([\d.]+)', said)
    assert 0.5 < float(found[1]) < 2
    weight = first_layer(work_dir / 'encoder.pth')
    assert weight.shape == (48, 5, 16, 16)
    panels = sorted(work_dir.glob('*/vis_data/vis_image/panel_*.png'))
    assert panels and np.asarray(Image.open(panels[-1])).std() > 10


def test_a_picture_is_painted(pretrained, scenes, tmp_path):
    work_dir, _ = pretrained
    arguments = PRETRAIN, work_dir / 'epoch_1.pth', scenes / 'bands/val', '--out', 'panels'
    (said,) = run_forked('reconstruct.py', *arguments, cwd=tmp_path)
    assert len(re.findall(r'00000[12]\.tif: error [\d.]+ \(pair_0_5 ', said)) == 2
    sheet = np.asarray(Image.open(tmp_path / 'panels/000001.png').convert('RGB'))
    tile = sheet[40:280, 8:248].reshape(-1, 3)  # of the original, without its title
    assert tile.min(axis=0).max() < 40 and tile.max(axis=0).min() > 180  # each from dark to bright
    tifffile.imwrite(tmp_path / 'four.tif', np.zeros((128, 128, 4), np.uint16), photometric='rgb')
    with pytest.raises(
        AssertionError, match=r'four\.tif: skipped .*\[128, 128, 4\], not channels=5'
    ):
        run_forked('reconstruct.py', PRETRAIN, work_dir / 'epoch_1.pth', 'four.tif', cwd=tmp_path)


def test_another_folder_by_one_option(pretrained, scenes, tmp_path):
    """The same held-out files as arrays of NumPy's give the same error."""
    work_dir, said = pretrained
    for split in ('train', 'val'):
        (tmp_path / 'own' / split).mkdir(parents=True)
        for file in (scenes / 'bands' / split).glob('*.tif'):
            np.save(tmp_path / 'own' / split / f'{file.stem}.npy', tifffile.imread(file))
    checkpoint = work_dir / 'epoch_1.pth'
    (tested,) = run_forked(
        'test.py', PRETRAIN, checkpoint, '--data', tmp_path / 'own', cwd=tmp_path
    )
    assert tested.count('recon/error') == 1
    names = r'recon/error: ([\d.]+)'
    # The noise of a mask is drawn from the file's name, so the ending plays a part.
    assert float(re.search(names, tested)[1]) == pytest.approx(
        float(re.search(names, said)[1]), abs=0.1
    )


@pytest.mark.parametrize('source', ['five', pytest.param('rgb', marks=pytest.mark.long)])
def test_a_segmentor_is_trained_and_tested(source, pretrained, scenes, tmp_path):
    """From what pre-training left, and from an encoder for RGB that was brought to 5 channels."""
    encoder = pretrained[0] / 'encoder.pth'
    if source == 'rgb':
        encoder = adapted(tmp_path)
    given = {f'{x}_dataloader.dataset.data_root': str(scenes) for x in ('train', 'val', 'test')}
    given |= {'model.backbone.init_cfg.checkpoint': str(encoder), 'experiment_name': source}
    given |= {'visualizer.name': source}  # else that of another run in this process
    given |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'param_scheduler': []}
    cfg, notes = training_config(str(SEGMENT), str(tmp_path / 'run'), cfg_options=given)
    runner = build_runner(cfg, notes)
    weight = runner.model.backbone.patch_embed.projection.weight
    runner.model.init_weights()
    first = first_layer(encoder)
    assert torch.equal(weight, first) and weight.shape == (48, 5, 16, 16)
    runner.train()
    assert not torch.equal(weight.cpu(), first)
    log = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert any(0 <= json.loads(line).get('mIoU', -1) <= 100 for line in log)
    results, checkpoint = tmp_path / 'masks', str(tmp_path / 'run/iter_2.pth')
    pictures = [*(scenes / 'bands/val').iterdir()]
    lines = predict_pictures(
        str(SEGMENT), checkpoint, str(scenes / 'bands/val'), None, results=str(results)
    )
    assert not any('skipped' in line for line in lines)
    masks = [np.array(Image.open(results / f'{path.stem}.png')) for path in pictures]
    assert masks and {mask.shape for mask in masks} == {(128, 128)}


def adapted(folder: Path) -> Path:
    """The untrained encoder of the RGB config, for 5 channels."""
    cfg = load_config(str(CONFIGS / 'mirl/vit-test_2e.py'))
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    model.init_weights()
    write_checkpoint(folder / 'rgb.pth', model.state_dict(), {})
    convert_file(folder / 'rgb.pth', folder / 'five.pth', channels=5)
    return folder / 'five.pth'


@pytest.mark.dense
def test_the_steps_of_mmseg_take_them(scenes):
    init_default_scope('mmseg')
    steps = [
        dict(type='LoadImageFromFile', channels=5),
        dict(type='LoadAnnotations'),
        dict(type='RandomResize', scale=(160, 160), ratio_range=(1.0, 1.5), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(96, 96), cat_max_ratio=0.9),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackSegInputs'),
    ]
    files = dict(img_path='bands/train/000001.tif', seg_map_path='masks/train/000001.png')
    sample = {key: str(scenes / file) for key, file in files.items()}
    packed = Compose(steps)(sample | dict(seg_fields=[], label_map=None, reduce_zero_label=False))
    assert packed['inputs'].shape == (5, 96, 96) and packed['inputs'].dtype == torch.float32
    whole = tifffile.imread(sample['img_path'])
    assert 0 <= packed['inputs'].min() < 0.9 * whole.max() < packed['inputs'].max() <= whole.max()


@pytest.mark.dense
@pytest.mark.parametrize('of', ['mmseg.SegDataPreProcessor', 'mmdet.DetDataPreprocessor'])
def test_each_channel_has_its_own_mean_in_dense_tasks(of):
    init_default_scope(of.partition('.')[0])
    mean, std = [1.0, 20, 300, 4000, 50000], [1.0, 2, 3, 4, 5]
    size = dict(size=(8, 8)) if 'Seg' in of else dict(pad_size_divisor=8)
    preprocessor = MODELS.build(dict(type='PerChannel', of=of, mean=mean, std=std, **size))
    samples = [DataSample(metainfo=dict(img_shape=(6, 7))) for _ in range(2)]
    images = [torch.rand(5, 6, 7) * 100 for _ in range(2)]
    got = preprocessor(dict(inputs=images, data_samples=samples), 'Det' not in of)['inputs']
    assert got.shape == (2, 5, 8, 8) and not got[:, :, 6:].any() and not got[..., 7:].any()
    for i in range(5):
        assert torch.allclose(got[1, i, :6, :7], (images[1][i] - mean[i]) / std[i])


def test_a_file_of_other_channels_ends_the_run(scenes, tmp_path):
    given = {'model.backbone.in_channels': 4, 'model.backbone.init_cfg': None}
    given |= {f'model.data_preprocessor.{key}': [1.0, 2, 3, 4] for key in ('mean', 'std')}
    for loader in ('train', 'val', 'test'):
        given[f'{loader}_dataloader.dataset.data_root'] = str(scenes)
        given[f'{loader}_dataloader.dataset.pipeline.0.channels'] = 4
    cfg, _ = training_config(str(SEGMENT), str(tmp_path / 'run'), cfg_options=given)
    said = r'^cannot read the image .*tif: it is of shape \[128, 128, 5\], not channels=4: [^\n]+$'
    with pytest.raises(UserError, match=said):
        build_runner(cfg).train()


def test_predictions_are_drawn_on_rgb_alone(scenes, tmp_path):
    (tmp_path / 'x.pth').touch()
    with pytest.raises(UserError, match='reads 5 channels, and drawn is on RGB alone'):
        next(predict_pictures(str(SEGMENT), str(tmp_path / 'x.pth'), str(scenes / 'bands/val')))
