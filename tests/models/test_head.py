from dataclasses import replace

import pytest
import torch
from torch import nn

from mirl_mm.models import MIRLHead, MIRLResidualLoss, ReconstructionError
from mirl_mm.models import head as heads
from mirl_mm.models.masking import patchify, unpatchify
from tests.models.build import images, small_mirl


def test_residual_loss_by_hand():
    main = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]]])
    residual = torch.tensor([[[1.0, 0.0], [1.0, 3.0], [5.0, 5.0]]])
    target = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    loss = MIRLResidualLoss()(main, residual, target, mask)
    assert loss.tolist() == [((0 + 4) / 2 + (1 + 9) / 2) / 2]
    assert MIRLResidualLoss()(main.bfloat16(), residual, target, mask).dtype == torch.float32


def test_target_has_no_mean_and_unit_variance():
    imgs = images(2, 32)
    imgs[:, :, :8, :8] = 0.7  # a patch without any contrast
    target = MIRLHead(patch_size=8).target(imgs)
    mean = target.patches[:, 1:].mean(dim=-1)
    torch.testing.assert_close(mean, torch.zeros(2, 15), rtol=0, atol=1e-5)
    variance = target.patches[:, 1:].var(dim=-1)
    torch.testing.assert_close(variance, torch.ones(2, 15), rtol=0, atol=1e-4)
    assert target.patches[:, 0].abs().max() < 1e-3
    torch.testing.assert_close(target.std[:, 0, 0], torch.full((2,), 1e-3), rtol=1e-3, atol=0)


def test_raw_pixels_are_what_was_given():
    """Painted to the value, the sum of a pair is the image to the bit."""
    imgs, head = images(2, 32, 48), dict(norm_pix=False)
    target = MIRLHead(patch_size=8, **head).target(imgs)
    assert torch.equal(target.patches, patchify(imgs, 8))
    assert torch.equal(target.mean, torch.zeros(2, 24, 1))
    assert torch.equal(target.std, torch.ones(2, 24, 1))
    result = small_mirl(segments=4, head=head, img_size=(32, 48)).reconstruct(imgs)
    assert torch.equal(result.target, target.patches)
    zeros = torch.zeros_like(target.patches)
    perfect = (target.patches, target.patches, zeros, zeros)
    painted = replace(result, preds=perfect).images()
    for kind, wanted in (('main', imgs), ('residual', 0 * imgs), ('sum', imgs)):
        assert len(painted[kind]) == 2
        assert all(torch.equal(each, wanted) for each in painted[kind]), kind
    both = [result.preds[g] + result.preds[h] for g, h in result.pairs]
    for picture, pred in zip(result.images()['sum'], both, strict=True):
        assert torch.equal(picture, unpatchify(pred, (4, 6), 8))


def test_normalised_pixels_are_the_default():
    imgs = images(2, 32)
    for given in ({}, dict(norm_pix=True)):
        target = MIRLHead(patch_size=8, **given).target(imgs)
        patches = patchify(imgs, 8)
        std = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        mean = patches.mean(dim=-1, keepdim=True)
        assert torch.equal(target.patches, (patches - mean) / std)
        assert torch.equal(target.mean, mean) and torch.equal(target.std, std)


def test_raw_pixels_are_trained_on():
    """The loss of a pass is that of the raw target, and has gradients."""
    imgs, losses = images(2, 32), {}
    for norm_pix in (True, False):
        model = small_mirl(segments=4, head=dict(norm_pix=norm_pix))
        torch.manual_seed(1)
        logs = model.loss(imgs)
        torch.manual_seed(1)
        result = model.reconstruct(imgs)
        torch.testing.assert_close(logs['loss'], result.loss)
        losses[norm_pix] = logs['loss'].item()
        logs['loss'].backward()
        assert model.neck.stem_embed.weight.grad.norm() > 0
    assert losses[False] < 0.9 * losses[True]


def test_errors_are_means_over_all_images():
    metric = ReconstructionError()
    for size, start in ((2, 1.0), (1, 6.0)):
        samples = [
            dict(recon_error=start + i, pair_0_1=10 * (start + i), img_path='x')
            for i in range(size)
        ]
        metric.process({}, samples)
    assert metric.evaluate(3) == pytest.approx({'recon/error': 3.0, 'recon/pair_0_1': 30.0})


def test_pairs_have_one_order():
    names = [f'pair_{g}_{23 - g}' for g in range(12)]
    metric = ReconstructionError()
    metric.process({}, [dict.fromkeys([*names[::-1], 'recon_error'], 1.0)])
    assert list(metric.evaluate(1)) == ['recon/error', *(f'recon/{name}' for name in names)]


def test_an_unknown_pairing_is_refused():
    with pytest.raises(ValueError, match="unknown pairing 'nearest'; known are mirrored"):
        MIRLHead(pairing='nearest')


def test_a_pairing_is_one_function(monkeypatch):
    """Losses, names and pictures follow it."""
    halves = {'halves': lambda segments: [(g, g + segments // 2) for g in range(segments // 2)]}
    monkeypatch.setattr(heads, 'PAIRINGS', heads.PAIRINGS | halves)
    model, imgs = small_mirl(segments=4, head=dict(pairing='halves')), images(2, 32)
    torch.manual_seed(1)
    result = model.reconstruct(imgs)
    assert result.pairs == [(0, 2), (1, 3)]
    for i, (g, h) in enumerate(result.pairs):
        both = result.preds[g] + result.preds[h]
        error = (both - result.target).square().mean(dim=-1)
        wanted = (error * result.mask).sum() / result.mask.sum()
        torch.testing.assert_close(result.pair_losses[i], wanted)
        alone = [type(result)(**{**vars(result), 'pairs': [(k, k)]}) for k in (g, h)]
        painted = result.images()
        assert torch.equal(painted['main'][i], alone[0].images()['main'][0])
        assert torch.equal(painted['residual'][i], alone[1].images()['main'][0])
    torch.manual_seed(1)
    assert list(model.loss(imgs)) == ['loss', 'pair_0_2', 'pair_1_3']
    assert 'pair_1_3' in model.predict(imgs)[0]


class Tripled(nn.Module):
    """A loss that is not the measure."""

    def forward(self, main, residual, target, mask):
        return 3 * MIRLResidualLoss()(main, residual, target, mask)


def test_metrics_do_not_follow_the_loss():
    imgs = images(2, 32)
    plain = small_mirl(segments=4)
    other = small_mirl(segments=4, head=dict(loss=dict(type=Tripled)))
    logs, results, metrics = [], [], []
    for model in plain, other:
        torch.manual_seed(1)
        logs.append(model.loss(imgs))
        torch.manual_seed(1)
        results.append(model.reconstruct(imgs))
        metrics.append([sample.recon_error for sample in model.predict(imgs)])
    torch.testing.assert_close(logs[1]['loss'], 3 * logs[0]['loss'])
    torch.testing.assert_close(results[1].pair_losses, 3 * results[0].pair_losses)
    torch.testing.assert_close(results[1].loss, logs[1]['loss'])
    assert logs[0].keys() == logs[1].keys() == {'loss', 'pair_0_3', 'pair_1_2'}
    for name in ('pair_0_3', 'pair_1_2'):
        torch.testing.assert_close(logs[1][name], logs[0][name])
    assert torch.equal(results[1].pair_errors, results[0].pair_errors)
    assert metrics[1] == metrics[0]
    logs[1]['loss'].backward()
    assert other.neck.stem_embed.weight.grad.norm() > 0


def test_the_default_loss_is_measured_once():
    head = MIRLHead(patch_size=8)
    calls = []
    head.loss_module.register_forward_hook(lambda *_: calls.append(1))
    losses, errors = head.compare(
        torch.randn(4, 2, 3, 192), torch.zeros(2, 3, 192), torch.ones(2, 3)
    )
    assert errors is losses and len(calls) == 2
