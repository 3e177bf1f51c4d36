"""Any number of channels: their normalisation, and the patch projection from weights for RGB."""

import pytest
import timm
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from timm.models._manipulate import adapt_input_conv

from mirl_mm.checkpoint import convert_file, read_checkpoint, write_checkpoint
from mirl_mm.errors import CheckpointError, UserError
from mirl_mm.measure.features import preprocessor_of
from mirl_mm.models import MIRLViT, PerChannel
from mirl_mm.models.channels import for_channels
from tests.models.build import small_mirl

MEAN, STD = [1.0, 20, 300, 4000, 50000], [1.0, 2, 3, 4, 5]
NAME = 'backbone.patch_embed.projection.weight'


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 6, 13])
def test_the_rule_is_timms(channels):
    weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = for_channels(weight, channels)
    assert found.shape == (8, channels, 4, 4) and found.is_contiguous()
    assert torch.allclose(found, adapt_input_conv(channels, weight.clone()), rtol=1e-6, atol=0)


def test_a_grey_picture_looks_as_it_did():
    vit = dict(arch='test', img_size=32, patch_size=8)
    rgb, grey, six = (MIRLViT(**vit, in_channels=n).eval() for n in (3, 1, 6))
    rgb.init_weights()
    for other, channels in ((grey, 1), (six, 6)):
        state = rgb.state_dict()
        state[NAME[9:]] = for_channels(state[NAME[9:]], channels)
        other.load_state_dict(state)
    picture = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        wanted = rgb(picture.expand(-1, 3, -1, -1))[0]
        assert wanted.std() > 0.1
        assert torch.allclose(grey(picture)[0], wanted, atol=1e-5)
        assert torch.allclose(six(picture.expand(-1, 6, -1, -1))[0], wanted, atol=1e-5)


def converted(tmp_path, *, channels: int, **settings) -> tuple[list[str], dict]:
    model = small_mirl()
    model.init_weights()
    write_checkpoint(tmp_path / 'whole.pth', model.state_dict(), {})
    lines = convert_file(
        tmp_path / 'whole.pth', tmp_path / 'new.pth', channels=channels, **settings
    )
    return lines, model.state_dict()


@pytest.mark.parametrize('channels', [1, 5])
def test_the_converter_adapts_the_encoder_alone(channels, tmp_path):
    lines, before = converted(tmp_path, channels=channels)
    found, _ = read_checkpoint(tmp_path / 'new.pth')
    assert found.keys() == {name for name in before if name.startswith('backbone.')}
    assert torch.equal(found[NAME], for_channels(before[NAME], channels))
    assert all(torch.equal(found[name], before[name]) for name in found if name != NAME)
    text = '\n'.join(lines)
    decoders = sum(name.startswith('neck.') for name in before)
    assert f', {channels} channels' in text and f'unused    {decoders}: ' in text


def test_timm_takes_the_encoder(tmp_path):
    lines, before = converted(tmp_path, channels=4, to='timm')
    state = torch.load(tmp_path / 'new.pth', weights_only=True)
    assert torch.equal(state['patch_embed.proj.weight'], for_channels(before[NAME], 4))
    (call,) = (line for line in lines if 'timm.create_model(' in line)
    call = call[call.index('timm.') :].replace('num_heads=?', 'num_heads=4')
    model = eval(call, dict(timm=timm))
    assert model.load_state_dict(state).missing_keys == []
    assert model(torch.zeros(1, 4, *model.patch_embed.img_size)).isfinite().all()


@pytest.mark.parametrize('channels', [0, 3, -1])
def test_what_the_converter_refuses(channels, tmp_path):
    said = f'{channels} channels of weights for 3; accepted are weights for 3 and another number'
    with pytest.raises(UserError, match=said):
        converted(tmp_path, channels=channels)
    assert not (tmp_path / 'new.pth').exists()
    converted(tmp_path, channels=5)
    with pytest.raises(UserError, match='4 channels of weights for 5'):
        convert_file(tmp_path / 'new.pth', tmp_path / 'newer.pth', channels=4)


def test_weights_of_other_channels_say_how_to_adapt_them(tmp_path):
    small = MIRLViT('test', img_size=32, patch_size=8)
    write_checkpoint(tmp_path / 'rgb.pth', small.state_dict(), {})
    five = MIRLViT('test', img_size=32, patch_size=8, in_channels=5)
    said = (
        r'is \(48, 3, 8, 8\) there and \(48, 5, 8, 8\) in .*; see convert_checkpoint.py --channels'
    )
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(five, str(tmp_path / 'rgb.pth'))
    convert_file(tmp_path / 'rgb.pth', tmp_path / 'five.pth', to='backbone', channels=5)
    load_checkpoint(five, str(tmp_path / 'five.pth'))
    weight = for_channels(small.patch_embed.projection.weight, 5)
    assert torch.equal(five.patch_embed.projection.weight, weight)
    three = MIRLViT('test', img_size=32, patch_size=8)
    with pytest.raises(CheckpointError, match=r'is \(48, 5, 8, 8\) there and \(48, 3, 8, 8\)'):
        load_checkpoint(three, str(tmp_path / 'five.pth'))


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
def test_each_channel_has_its_own_mean(channels):
    mean, std = MEAN[:channels], STD[:channels]
    settings = dict(type='PerChannel', of='mmpretrain.SelfSupDataPreprocessor', mean=mean, std=std)
    preprocessor = MODELS.build(settings)
    images = torch.rand(2, channels, 6, 7) * 100
    got = preprocessor(dict(inputs=images, data_samples=[]), True)['inputs']
    for i in range(channels):
        assert torch.allclose(got[:, i], (images[:, i] - mean[i]) / std[i])
    assert got.dtype == torch.float32 and preprocessor.state_dict() == {}
    frozen = preprocessor_of(dict(data_preprocessor=settings))  # of k-NN and probes
    assert torch.allclose(frozen(dict(inputs=images))['inputs'], got)
    assert preprocessor.mean.shape == preprocessor.std.shape == (channels, 1, 1)


@pytest.mark.parametrize(
    ('mean', 'std'), [([1.0, 2], [1.0]), ([1.0], [0.0]), ([], []), ([1.0, 2], [1.0, -1])]
)
def test_means_without_deviations(mean, std):
    with pytest.raises(UserError, match=r'PerChannel: mean=.*; accepted are as many of both, and'):
        PerChannel('mmpretrain.SelfSupDataPreprocessor', mean, std)
