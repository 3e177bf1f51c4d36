import numpy as np
import pytest
import torch
from mmpretrain.models import VisionTransformer
from PIL import Image
from torch import nn

from mirl_mm.measure import cached, paint
from mirl_mm.measure.features import Loading
from mirl_mm.measure.paint import _decoders, _errors, paint_curves
from mirl_mm.models.masking import random_masking
from tests.measure.label_free import METHODS, encoder, images, probing

STEPS = 6


def painted(
    tmp_path, kind='MIRLViT', cache='cache', weights='w', mask_ratio=0.75, steps=STEPS, **how
):
    vit, cfg = encoder(tmp_path, kind)
    how = probing(cfg, **how)
    sets = images(tmp_path / 'train', how), images(tmp_path / 'val', how, seed=1)
    args = (how, tmp_path / cache, weights, 'T', mask_ratio, steps)
    (curve,) = paint_curves(vit, *sets, *args)
    assert curve.name == 'paint' and curve.less and curve.without.shape == (10, len(how.blocks))
    return curve


def test_encoders_of_one_arch_give_the_same_curve(tmp_path):
    found = [painted(tmp_path, kind, kind).values for kind in METHODS]
    assert found[0].isfinite().all() and found[0][0] != found[0][1]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-5, atol=0)


def test_a_block_does_not_depend_on_the_others(tmp_path):
    every, last = painted(tmp_path, blocks=range(4)).values, painted(tmp_path, blocks=[3]).values
    assert every.shape == (4,) and every[3] == last[0] != every[2]


def test_bfloat16_is_close_and_kept_apart(tmp_path):
    full, half = painted(tmp_path).values, painted(tmp_path, amp=True).values
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, rtol=0.02, atol=0)


@pytest.mark.parametrize('stop', [3, STEPS + 1])  # in training, and among held-out images
def test_a_stopped_run_goes_on_to_the_bit(tmp_path, monkeypatch, stop):
    whole = painted(tmp_path, 'MAEViT', 'whole')
    monkeypatch.setattr(cached, 'SAVE_EVERY', -1)
    calls, forward = [], VisionTransformer.forward

    def stopping(vit, imgs):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(len(imgs))
        return forward(vit, imgs)

    monkeypatch.setattr(VisionTransformer, 'forward', stopping)
    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path, 'MAEViT')
    calls, stop = [], None
    resumed = painted(tmp_path, 'MAEViT')
    assert 0 < len(calls) < STEPS + 3  # batches of 4: 6 to learn from, and 3 held-out ones
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.without, whole.without)
    calls.clear()
    assert torch.equal(painted(tmp_path, 'MAEViT').values, whole.values) and not calls
    assert not torch.equal(painted(tmp_path, 'MAEViT', mask_ratio=0.5).values, whole.values)
    assert len(calls) == STEPS + 3


def test_what_is_painted_is_held_against_normed_pixels():
    vit = VisionTransformer(dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
                            16, 4, out_type='raw')  # fmt: skip
    noise, colour = torch.rand(2, 16), torch.tensor([0.3, -1.2, 2.0]).view(1, 3, 1, 1)
    imgs = torch.cat([torch.randn(1, 3, 16, 16), colour.expand(1, 3, 16, 16)])  # noise; a colour
    decoders, loading = _decoders(vit, 2), Loading()
    for decoder, value in zip(decoders, (0.0, 0.5), strict=True):
        decoder.decoders[0].pred.bias.data.fill_(value)
        decoder.decoders[0].norm.weight.data.zero_()

    def masked(imgs, noise):
        tokens = torch.randn(2, 1 + 4, 16)
        return [tokens, tokens], *random_masking(noise, 4)[1:]

    mean, constant = _errors(decoders, masked, loading, imgs, noise)
    # A patch has 48 values, normed by the unbiased variance: of mean 0, and of mean square 47/48.
    assert mean.tolist() == pytest.approx([47 / 48] * 2, rel=1e-5)
    assert constant.tolist() == pytest.approx([47 / 48 + 0.25] * 2, rel=1e-5)
    grey = torch.full((2, 3, 16, 16), 0.5)  # of no variance: there is nothing to paint
    found = [error.tolist() for error in _errors(decoders, masked, loading, grey, noise)]
    assert found == [[pytest.approx(0, abs=1e-6)] * 2, [pytest.approx(0.25, abs=1e-6)] * 2]


class Noise(nn.Module):
    def forward(self, x):
        return torch.randn_like(x)


def test_the_error_rises_where_a_block_loses_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(paint, 'RATE', 1e-2)
    rng = np.random.default_rng(0)
    for split, count in (('train', 24), ('val', 12)):  # all patches of an image are equal
        for i in range(count):
            patch = rng.integers(0, 255, (1, 1, 3)) * np.ones((4, 4, 1))
            patch[: 1 + i % 3] = 255 - patch[: 1 + i % 3]
            path = tmp_path / split / f'{i}.png'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.tile(patch, (4, 4, 1)).astype(np.uint8)).save(path)
    vit, cfg = encoder(tmp_path)
    vit.layers[3] = Noise()
    how = probing(cfg, blocks=(0, 2, 3), batch_size=8)
    sets = (images(tmp_path / split, how) for split in ('train', 'val'))
    torch.manual_seed(0)
    (curve,) = paint_curves(vit, *sets, how, tmp_path, 'w', 'T', 0.75, steps=40)
    first, third, noise = curve.values.tolist()
    assert first < 0.85 and third < 0.85 and noise > 0.95, curve.values
    summary = curve.summary(how.blocks)
    assert summary['best_block'] in (1, 3) and summary['falls']


def test_no_step_and_no_such_ratio(tmp_path):
    with pytest.raises(ValueError, match='painting takes 1 step or more, got 0'):
        painted(tmp_path, steps=0)
    with pytest.raises(ValueError, match=r'mask_ratio=1\.0 keeps 0 of 16 patches'):
        painted(tmp_path, mask_ratio=1.0)
