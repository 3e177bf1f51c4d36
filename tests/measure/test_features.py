import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mirl_mm.datasets.class_folders import class_folders
from mirl_mm.measure.features import (
    Loading,
    batches,
    block_features,
    extract,
    final_features,
    load_encoder,
    masked_tokens,
    preprocessor_of,
    test_pipeline_of,
)
from mirl_mm.models.vit import MIRLViT
from tests.class_folders import ARCH, MAE, MIRL, write_checkpoint, write_classes, write_config


@pytest.fixture
def files(tmp_path):
    """Config and checkpoint of MIRL."""
    config = write_config(tmp_path / 'mirl.py', MIRL)
    return config, write_checkpoint(tmp_path / 'mirl.pth', config)


@pytest.fixture
def encoder(files):
    return load_encoder(Config.fromfile(files[0]), files[1])


@pytest.fixture
def imgs():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_final_features_are_what_the_encoder_returns(encoder, imgs):
    features = final_features(encoder, imgs)
    assert features.shape == (3, 2, 16)
    torch.testing.assert_close(features[:, 0], encoder(imgs)[0])  # out_type cls_token
    encoder.out_type = 'featmap'
    torch.testing.assert_close(features[:, 1], encoder(imgs)[0].mean((2, 3)))


@torch.no_grad()
def test_a_fine_tuned_encoder_norms_its_average(files, imgs):
    cfg = Config.fromfile(files[0])
    cfg.model.backbone.update(out_type='avg_featmap', final_norm=False)
    encoder = load_encoder(cfg, files[1])
    torch.testing.assert_close(final_features(encoder, imgs)[:, 1], encoder(imgs)[0])


def test_norms_that_a_file_lacks_are_told(files, capsys):
    cfg = Config.fromfile(files[0])
    load_encoder(cfg, files[1])
    assert capsys.readouterr().out == ''
    cfg.model.backbone.update(out_type='avg_featmap', final_norm=False)
    load_encoder(cfg, files[1])
    out = capsys.readouterr().out
    assert f'{files[1]} is of an encoder with other norms' in out
    assert 'backbone.ln2.weight, backbone.ln2.bias stay as before training' in out
    assert 'backbone.ln1.weight, backbone.ln1.bias go unused' in out


@torch.no_grad()
def test_block_features_are_normed_tokens_behind_the_blocks(encoder, imgs):
    found = block_features(encoder, imgs, [1, 3])
    assert found.shape == (3, 2, 2, 16)
    x, _ = encoder.patch_embed(imgs)
    x = torch.cat([encoder.cls_token.expand(3, -1, -1), x], dim=1) + encoder.pos_embed
    for i, layer in enumerate(encoder.layers):
        x = layer(x)
        if i in (1, 3):
            normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()  # fmt: skip  # noqa: E501
            expected = torch.stack([normed[:, 0], normed[:, 1:].mean(1)], dim=1)
            torch.testing.assert_close(found[:, i // 2], expected)


@torch.no_grad()
def test_what_the_encoder_is_set_to_stays(encoder, imgs):
    before = encoder(imgs)
    block_features(encoder, imgs, [0])
    assert (encoder.out_type, encoder.out_indices, encoder.final_norm) == ('cls_token', [3], True)
    torch.testing.assert_close(encoder(imgs), before, rtol=0, atol=0)


@torch.no_grad()
def test_mae_and_mirl_read_each_others_encoders(files, imgs, tmp_path):
    mae = write_config(tmp_path / 'mae.py', MAE)
    checkpoints = files[1], write_checkpoint(tmp_path / 'mae.pth', mae, seed=1)
    found = {}
    for checkpoint in checkpoints:
        for config in (files[0], mae):
            encoder = load_encoder(Config.fromfile(config), checkpoint)
            found[checkpoint, config] = final_features(encoder, imgs)
    for checkpoint in checkpoints:
        torch.testing.assert_close(found[checkpoint, files[0]], found[checkpoint, mae])
    assert not torch.allclose(found[checkpoints[0], mae], found[checkpoints[1], mae], atol=0.1)


def test_random_weights_are_always_the_same_and_leave_the_generator(files):
    state = torch.random.get_rng_state()
    first, second = (load_encoder(Config.fromfile(files[0]), 'random') for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.cls_token.std() > 0
    torch.random.set_rng_state(state)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(embed_dims=32), r"of another arch: 'backbone.cls_token' is \(1, 1, 16\) there"),
        (dict(num_layers=6), "it lacks 'backbone.layers.4"),
        (dict(num_layers=2), "it has 'backbone.layers.2"),
    ],
)
def test_another_arch_is_an_error(files, change, message):
    cfg = Config.fromfile(files[0])
    cfg.model.backbone.arch.update(change)
    cfg.model.backbone.num_segments = 2
    with pytest.raises(ValueError, match=message):
        load_encoder(cfg, files[1])


def test_other_models_are_an_error(files):
    cfg = Config.fromfile(files[0])
    cfg.model.backbone = dict(type='ResNet', depth=18)
    with pytest.raises(ValueError, match=r'must be a plain ViT with a cls token .* got ResNet'):
        load_encoder(cfg, files[1])
    with pytest.raises(ValueError, match=r'the config has no model\.backbone'):
        load_encoder(Config(), files[1])


def test_images_come_normalised_and_in_order_without_random_numbers(tmp_path):
    init_default_scope('mmpretrain')
    pipeline = test_pipeline_of({}, 16)
    dataset = class_folders(write_classes(tmp_path / 'a', count=3), pipeline)
    preprocessor = preprocessor_of(
        dict(data_preprocessor=dict(mean=[10, 20, 30], std=[2, 2, 4], to_rgb=True))
    )
    state = torch.random.get_rng_state()
    found = batches(dataset, lambda x: x.mean((2, 3)), preprocessor, Loading(4, 0))
    features, labels = extract(dataset, found, 'test')
    assert torch.equal(torch.random.get_rng_state(), state)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert features.dtype == torch.float16
    blue = torch.tensor([(40 - 10) / 2, (60 - 20) / 2, (220 - 30) / 4])
    assert (features[:3].float() - blue).abs().max() < 2  # RGB; noise of 12 over 256 pixels
    assert features[8, 0] > 80


def test_the_configs_own_preparation_comes_first():
    own, other = [dict(type='PackInputs')], [dict(type='CenterCrop')]
    loader = dict(dataset=dict(pipeline=own))
    assert test_pipeline_of(dict(test_dataloader=loader, test_pipeline=other), 64) == own
    assert test_pipeline_of(dict(test_dataloader=None, test_pipeline=other), 64) == other
    edge, crop = test_pipeline_of({}, 224)[1:3]
    assert (edge['scale'], crop['crop_size']) == (256, 224)
    assert test_pipeline_of({}, (224, 224))[1:3] == [edge, crop]
    resize, crop = test_pipeline_of({}, (112, 448))[1:3]  # transforms have the width first
    assert (resize['type'], resize['scale']) == ('Resize', (512, 128))
    assert crop['crop_size'] == (448, 112)
    with pytest.raises(ValueError, match=r'no model\.data_preprocessor with mean and std'):
        preprocessor_of({})
    beside = preprocessor_of(dict(model={}, data_preprocessor=dict(mean=(1, 2), std=[3])))
    assert (beside.mean.flatten().tolist(), beside.std.flatten().tolist()) == ([1, 2], [3])


@torch.no_grad()
@pytest.mark.parametrize('registers', [0, 2])
def test_masked_tokens_are_those_of_pre_training(registers):
    vit = MIRLViT(ARCH, (16, 24), 4, num_segments=4, num_registers=registers)
    for parameter in vit.parameters():
        parameter.normal_(std=0.1)
    imgs, noise = torch.randn(3, 3, 16, 24), torch.rand(3, 24)
    wanted = vit.eval().encode_masked(imgs, noise)
    found, ids_restore, mask = masked_tokens(vit, imgs, [0, 1, 2, 3], noise, 0.75)
    assert torch.equal(ids_restore, wanted.ids_restore) and torch.equal(mask, wanted.mask)
    for own, tap in zip(found, wanted.taps[:-1], strict=False):
        assert own.shape == (3, 1 + 6, 16)
        torch.testing.assert_close(own, torch.nn.functional.layer_norm(tap, (16,), eps=1e-6))
    torch.testing.assert_close(found[3] * vit.ln1.weight + vit.ln1.bias, wanted.taps[3])
    assert not torch.allclose(found[2], found[3], atol=1e-2)
    full = block_features(vit, imgs, [3])[:, 0, 0]
    assert not torch.allclose(full, found[3][:, 0], atol=1e-2)  # nothing stays hidden afterwards
