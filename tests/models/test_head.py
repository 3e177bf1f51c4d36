import pytest
import torch
from torch import nn

from mirl_mm.models import MIRLHead, MIRLResidualLoss, ReconstructionError
from mirl_mm.models import head as heads
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
    neighbours = {'neighbours': lambda segments: [(g, g + 1) for g in range(0, segments, 2)]}
    monkeypatch.setattr(heads, 'PAIRINGS', heads.PAIRINGS | neighbours)
    model, imgs = small_mirl(segments=4, head=dict(pairing='neighbours')), images(2, 32)
    torch.manual_seed(1)
    result = model.reconstruct(imgs)
    assert result.pairs == [(0, 1), (2, 3)]
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
    assert list(model.loss(imgs)) == ['loss', 'pair_0_1', 'pair_2_3']
    assert 'pair_2_3' in model.predict(imgs)[0]


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
