import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import default_collate
from mmpretrain.models import SelfSupDataPreprocessor
from PIL import Image
from torch import nn

from mirl_mm.datasets.images import UnlabelledImages
from mirl_mm.engine.hooks import PanelHook
from mirl_mm.engine.hooks.held_out import held_out
from mirl_mm.errors import UserError
from mirl_mm.models.masking import fixed_noise
from mirl_mm.pictures.features import feature_maps
from mirl_mm.pictures.panel import GAP, HEADER, TILE, panel, panel_columns
from tests.models.build import small_mirl
from tests.models.downstream import build, classifier

PIPELINE = [dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpretrain.PackInputs')]
CROPS = [
    dict(type='LoadAnyImage'),
    dict(type='mmpretrain.RandomResizedCrop', scale=32),
    dict(type='mmpretrain.PackInputs'),
]
PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    colours = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    for i, picture in enumerate(colours):
        Image.fromarray(picture).resize((32, 32), Image.BICUBIC).save(root / f'{i:02}.png')
    return str(root)


def dataset(folder: str, pipeline: list = PIPELINE) -> dict:
    return dict(type='UnlabelledImages', data_root=folder, pipeline=pipeline)


def fake_runner(folder: str, model: nn.Module | None = None, test: str | None = None):
    """A runner with a training set alone, or with a test set too."""
    if model is None:
        model = small_mirl()
        model.data_preprocessor = SelfSupDataPreprocessor(**PIXELS)
    drawn, messages = {}, []
    cfg = dict(train_dataloader=dict(dataset=dataset(folder, CROPS)))
    if test:
        cfg['test_dataloader'] = dict(dataset=dataset(test))
    return SimpleNamespace(
        model=model,
        iter=0,
        max_iters=100,
        val_loop=None,
        cfg=ConfigDict(cfg),
        visualizer=SimpleNamespace(
            add_image=lambda name, image, step: drawn.setdefault(step, (name, image))
        ),
        logger=SimpleNamespace(info=messages.append, warning=messages.append),
        drawn=drawn,
        messages=messages,
    )


def walk(hook: PanelHook, runner: SimpleNamespace) -> dict:
    hook.before_train(runner)
    while runner.iter < runner.max_iters:
        hook.after_train_iter(runner, runner.iter)
        runner.iter += 1
    return runner.drawn


def mae() -> nn.Module:
    loss = dict(type='PixelReconstructionLoss', criterion='L2')
    neck = dict(embed_dim=24, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    model = build(
        'mmpretrain',
        dict(
            type='MAE',
            data_preprocessor=dict(type='SelfSupDataPreprocessor', **PIXELS),
            backbone=dict(type='MAEViT', arch=ARCH, img_size=32, patch_size=8),
            neck=dict(type='MAEPretrainDecoder', num_patches=16, patch_size=8, **neck),
            head=dict(type='MAEPretrainHead', norm_pix=True, patch_size=8, loss=loss),
        ),
    )
    model.init_weights()
    return model


def test_the_same_pictures_and_masks_at_every_interval(folder):
    runner = fake_runner(folder, test=folder)
    drawn = walk(PanelHook(interval=40), runner)
    assert list(drawn) == [0, 40, 80, 100]
    names, sheets = zip(*drawn.values(), strict=True)
    assert set(names) == {'panel'}
    columns = 2 + 3  # two segments make one pair
    assert sheets[0].shape == (HEADER + 8 * (TILE + GAP) - GAP, columns * (TILE + GAP) - GAP, 3)
    for sheet in sheets[1:]:
        np.testing.assert_array_equal(sheet, sheets[0])  # nothing was learnt
    first = sheets[0][HEADER : HEADER + TILE : 4, :TILE:4]  # magnified by 4
    np.testing.assert_array_equal(first, np.asarray(Image.open(f'{folder}/00.png')))
    with torch.no_grad():
        runner.model.neck.decoders[0].pred.bias += 1
    assert not np.array_equal(walk(PanelHook(40), fake_runner(folder, runner.model, folder))[0][1],
                              sheets[0])  # fmt: skip


def test_about_twenty_panels_by_default(folder):
    runner = fake_runner(folder, test=folder)
    runner.max_iters = 1000
    hook = PanelHook(images=1)
    hook.before_train(runner)
    assert hook.every == 50
    runner.max_iters = 30
    hook.before_train(runner)
    assert hook.every == 20


def test_a_resumed_run_goes_on(folder):
    runner = fake_runner(folder, test=folder)
    runner.iter = 50
    assert list(walk(PanelHook(interval=40), runner)) == [80, 100]


def test_training_does_not_notice(folder):
    runner = fake_runner(folder)  # with random crops
    runner.cfg.pop('test_dataloader', None)
    runner.model.train()
    runner.model.neck.eval()
    modes = [module.training for module in runner.model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    walk(PanelHook(interval=50), runner)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [module.training for module in runner.model.modules()] == modes


def test_validation_images_come_first(folder):
    runner = fake_runner(folder, test='/nowhere')
    runner.val_loop = object()
    runner.val_dataloader = SimpleNamespace(dataset=range(12))
    assert held_out(runner, 8) == (range(12), [0, 1, 3, 4, 6, 7, 9, 10])
    assert held_out(runner, 20)[1] == list(range(12))


def test_without_held_out_images_the_last_training_images(folder):
    runner = fake_runner(folder, test='/nowhere')
    found, picks = held_out(runner, 8)
    assert isinstance(found, UnlabelledImages) and picks == [4, 5, 6, 7, 8, 9, 10, 11]
    assert [step['type'] for step in runner.cfg.test_dataloader.dataset.pipeline] == [
        'mmpretrain.LoadImageFromFile', 'mmpretrain.PackInputs'
    ]  # fmt: skip
    assert found[11]['inputs'].shape == (3, 32, 32)
    assert '/nowhere' in runner.messages[0]
    assert 'show the last 8 training images; set val_dataloader' in runner.messages[1]


def test_masks_are_the_models_own(folder):
    runner = fake_runner(folder, test=folder)
    hook = PanelHook(interval=100, images=2)
    hook.before_train(runner)
    model = runner.model.eval()
    batch = model.data_preprocessor(hook.batch)
    noise = fixed_noise(batch['inputs'], batch['data_samples'], model.backbone.patch_size)
    with torch.no_grad():
        columns = panel_columns(batch['inputs'], model.reconstruct(batch['inputs'], noise))
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    wanted = panel({title: imgs * std + mean for title, imgs in columns.items()})
    np.testing.assert_array_equal(runner.drawn[0][1], wanted)


def test_mae_too(folder):
    runner = fake_runner(folder, mae(), folder)
    drawn = walk(PanelHook(interval=50), runner)
    sheets = [sheet for _, sheet in drawn.values()]
    assert sheets[0].shape[1] == 3 * (TILE + GAP) - GAP
    np.testing.assert_array_equal(sheets[0], sheets[-1])
    masked = sheets[0][HEADER : HEADER + TILE, TILE + GAP : 2 * TILE + GAP].reshape(-1, 3)
    grey = (masked == [124, 116, 104]).all(-1).mean()  # the mean colour
    assert grey == pytest.approx(0.75)


@pytest.mark.parametrize('make', [None, mae])
def test_features_on_request(folder, make):
    """Columns behind the segments' ends (of MAE, the quarters' of two blocks), of whole images."""
    model = make() if make else None
    plain = walk(PanelHook(100, 2), fake_runner(folder, model, folder))[0][1]
    runner = fake_runner(folder, model, folder)
    more = walk(PanelHook(100, 2, ['pca', 'attention']), runner)[0][1]
    assert np.array_equal(more[:, : plain.shape[1]], plain)
    added = more[:, plain.shape[1] + GAP :]
    assert added.shape[1] == 4 * (TILE + GAP) - GAP
    vit = runner.model.backbone
    vit.eval()  # mmpretrain's returns None
    dataset, picks = held_out(runner, 2)
    imgs = runner.model.data_preprocessor(default_collate([dataset[i] for i in picks]))['inputs']
    for i, (what, patch) in enumerate([('pca', None), ('attention', (2, 2))]):
        maps = feature_maps(vit, imgs, what, [1, 3] if model is None else [0, 1], patch)
        left = 2 * i * (TILE + GAP)
        for column in maps:
            shown = added[HEADER : HEADER + TILE : 4, left : left + TILE : 4]  # magnified by 4
            assert np.array_equal(shown, column[0].permute(1, 2, 0))
            left += TILE + GAP


def test_features_without_effect_are_an_error(folder):
    with pytest.raises(UserError, match=r"pca, attention, similarity, got \['pcb'\]"):
        PanelHook(features=['pcb'])
    assert PanelHook(features='pca').features == ['pca']  # as from a command line
    with pytest.raises(UserError, match=r'need MIRL or MAE with a plain ViT.* got ImageClassifier'):
        PanelHook(features=['pca']).before_train(fake_runner(folder, classifier()))


def test_other_models_paint_nothing(folder):
    runner = fake_runner(folder, classifier())
    assert walk(PanelHook(), runner) == {}
    assert runner.messages == ['no panels: ImageClassifier paints nothing']


def test_other_processes_draw_nothing(folder, monkeypatch):
    monkeypatch.setattr('mirl_mm.engine.hooks.held_out.is_main_process', lambda: False)
    assert walk(PanelHook(), fake_runner(folder)) == {}


@pytest.mark.parametrize(
    'kwargs, name', [(dict(interval=0), 'interval'), (dict(images=0), 'images')]
)
def test_wrong_settings(kwargs, name):
    with pytest.raises(ValueError, match=f'{name} must be at least 1'):
        PanelHook(**kwargs)
