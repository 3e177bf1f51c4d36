"""Other pairings, and decoders without context, held against the plain equations."""

import pytest
import torch
from torch import Tensor, nn

from mirl_mm.checkpoint import convert_official
from mirl_mm.models import MIRL, MIRLHead, MIRLResidualLoss, ReconstructionError
from mirl_mm.models.segments import parameter_segments
from tests.models.build import (
    assert_as_reference,
    assert_same_gradients,
    images,
    mirl,
    numbers,
    reference,
    small_mirl,
)

SMALL = dict(
    img_size=(32, 48), patch=8, width=24, depth=12, heads=2, decoder_width=16, decoder_heads=2
)
# By segments: the pairs of each pairing.
PAIRS = {
    ('mirrored', 2): [(0, 1)],
    ('mirrored', 4): [(0, 3), (1, 2)],
    ('mirrored', 6): [(0, 5), (1, 4), (2, 3)],
    ('neighbours', 2): [(0, 1)],
    ('neighbours', 4): [(0, 1), (2, 3)],
    ('neighbours', 6): [(0, 1), (2, 3), (4, 5)],
    ('none', 1): [(0,)],
    ('none', 2): [(0,), (1,)],
    ('none', 3): [(0,), (1,), (2,)],
    ('none', 4): [(0,), (1,), (2,), (3,)],
    ('none', 6): [(0,), (1,), (2,), (3,), (4,), (5,)],
}


class Tripled(nn.Module):
    """A loss that is not the measure, and of no part alone."""

    def forward(self, main: Tensor, residual: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return 3 * MIRLResidualLoss()(main, residual, target, mask)


def names_of(pairs: list[tuple[int, ...]]) -> list[str]:
    return ['pair_' + '_'.join(map(str, pair)) for pair in pairs]


@pytest.mark.parametrize('context', [True, False], ids=['context', 'no-context'])
@pytest.mark.parametrize(('pairing', 'segments'), PAIRS)
def test_parity(pairing, segments, context):
    """Outputs and every gradient against the plain equations, in float64."""
    size = dict(SMALL, segments=segments, pairing=pairing, context=context, decoder_depth=2)
    plain, ours = reference(**size).double(), mirl(**size)
    ours.load_state_dict(convert_official(plain.state_dict()), strict=True)
    ours.double()
    imgs, noise = images(2, *numbers(**size)['img_size']).double(), torch.rand(2, 24)
    expected, found = plain(imgs, noise), ours.reconstruct(imgs, noise)
    assert found.pairs == PAIRS[pairing, segments]
    assert found.pair_losses.shape == expected.pair_losses.shape == (len(found.pairs),)
    assert_as_reference(found, expected)

    found.loss.backward()
    expected.loss.backward()
    for name, grad in assert_same_gradients(ours, plain).items():
        assert grad.norm() > 0, name


@pytest.mark.parametrize('segments', [1, 3])
@pytest.mark.parametrize('pairing', ['mirrored', 'neighbours'])
def test_an_odd_number_of_segments(pairing, segments):
    message = f"pairing='{pairing}' needs an even number of segments, got {segments}; none takes"
    with pytest.raises(ValueError, match=message):
        MIRLHead(pairing=pairing).pairs(segments)
    with pytest.raises(ValueError, match=message):
        small_mirl(depth=6, segments=segments, pairing=pairing)


def test_the_two_pairings_are_one_with_two_segments():
    imgs, noise = images(2, 32), torch.rand(2, 16)
    both = [small_mirl(pairing=p).reconstruct(imgs, noise) for p in ('mirrored', 'neighbours')]
    assert torch.equal(both[0].loss, both[1].loss)


@pytest.mark.parametrize('context', [True, False], ids=['context', 'no-context'])
@pytest.mark.parametrize('pairing', ['mirrored', 'neighbours', 'none'])
def test_every_trainable_parameter_receives_a_gradient(pairing, context):
    """Of a fresh model, whose gains are 1 and biases 0, in the pass that training makes."""
    model = small_mirl(depth=8, segments=4, pairing=pairing, context=context)
    model.loss(images(2, 32))['loss'].backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 8 * 12
    for name, grad in trained.items():
        assert grad is not None and grad.norm() > 0, name


def test_what_is_not_there_without_context():
    """The stem's norm and layer, and of every decoder block two norms and an attention."""
    model, other = small_mirl(segments=4), small_mirl(segments=4, context=False)
    gone = model.state_dict().keys() - other.state_dict().keys()
    assert not other.state_dict().keys() - model.state_dict().keys()
    parts = ['ln_query', 'ln_context', *(f'cross_attn.{name}' for name in ('q', 'kv', 'proj'))]
    whole = [f'decoders.{g}.blocks.0.{part}' for g in range(4) for part in parts]
    whole += ['stem_norm', 'stem_embed']
    assert gone == {f'neck.{part}.{k}' for part in whole for k in ('weight', 'bias')}


@pytest.mark.parametrize('segments', [3, 4])
def test_without_context_a_decoder_sees_its_own_segment_alone(segments):
    torch.manual_seed(0)
    model = small_mirl(depth=12, segments=segments, context=False, pairing='none')
    features = model.backbone.encode_masked(images(2, 32))
    taps = [tap.detach().requires_grad_() for tap in (features.stem, *features.taps)]
    for g, pred in enumerate(model.neck(features._replace(stem=taps[0], taps=(*taps[1:],)))):
        grads = torch.autograd.grad(pred.sum(), taps, retain_graph=True, allow_unused=True)
        assert [grad is not None for grad in grads] == [i == g + 1 for i in range(segments + 1)]


@pytest.mark.parametrize('decoder_depth', [1, 2])
@pytest.mark.parametrize('context', [True, False], ids=['context', 'no-context'])
@pytest.mark.parametrize(('pairing', 'segments'), [('neighbours', 4), ('none', 4), ('none', 3)])
def test_the_loss_is_that_of_a_reconstruction(pairing, segments, context, decoder_depth):
    settings = dict(segments=segments, pairing=pairing, context=context)
    model = small_mirl(depth=12, decoder_depth=decoder_depth, **settings).double()
    imgs, found = images(3, 32).double(), []
    for run in (model.reconstruct, model.loss):
        model.zero_grad()
        torch.manual_seed(1)
        made = run(imgs)
        loss = made['loss'] if isinstance(made, dict) else made.loss
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        found.append((made, loss, grads))
    (whole, loss, grads), (logs, same, same_grads) = found
    assert list(logs) == ['loss', *names_of(PAIRS[pairing, segments])]
    torch.testing.assert_close(same, loss, rtol=1e-13, atol=0)
    pairs = torch.stack([*logs.values()][1:])
    torch.testing.assert_close(pairs, whole.pair_losses.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(same_grads, grads, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize('norm_pix', [True, False])
def test_decoders_that_paint_alone(norm_pix):
    """Every one has an error and a picture of its own: ``main``, and nothing beside it."""
    model = small_mirl(depth=6, segments=3, pairing='none', head=dict(norm_pix=norm_pix))
    imgs = images(2, 32)
    result = model.reconstruct(imgs)
    assert result.pair_errors.shape == (2, 3)
    for g, pred in enumerate(result.preds):
        error = ((pred - result.target).square().mean(dim=-1) * result.mask).sum(dim=1)
        torch.testing.assert_close(result.pair_errors[:, g], error / result.mask.sum(dim=1))
    painted = result.images()
    assert {kind: len(each) for kind, each in painted.items()} == dict(main=3, residual=0, sum=0)
    perfect = type(result)(**{**vars(result), 'preds': (result.target,) * 3}).images()['main']
    for picture in perfect:
        torch.testing.assert_close(picture, imgs, rtol=0, atol=0 if not norm_pix else 1e-5)


def test_what_paints_alone_learns_from_nobody_else():
    """The first decoder's prediction has no part in the others' errors."""
    model = small_mirl(depth=6, segments=3, pairing='none').double()
    imgs, noise = images(2, 32).double(), torch.rand(2, 16)
    before = model.reconstruct(imgs, noise).pair_losses
    with torch.no_grad():
        model.neck.decoders[0].pred.bias += 1
    after = model.reconstruct(imgs, noise).pair_losses
    assert torch.equal(after[1:], before[1:]) and after[0] > before[0] + 0.5


@pytest.mark.parametrize(('pairing', 'segments'), [('neighbours', 4), ('none', 3)])
def test_names_in_logs_predictions_and_metrics(pairing, segments):
    model, imgs = small_mirl(depth=12, segments=segments, pairing=pairing).eval(), images(3, 32)
    names, metric = names_of(PAIRS[pairing, segments]), ReconstructionError()
    assert model.pair_names == names and list(model.loss(imgs)) == ['loss', *names]
    samples = model.predict(imgs)
    for sample in samples:
        errors = torch.stack([sample.get(name) for name in names])
        torch.testing.assert_close(sample.recon_error, errors.mean())
    metric.process({}, [sample.to_dict() for sample in samples])
    found = metric.evaluate(3)
    assert list(found) == ['recon/error', *(f'recon/{name}' for name in names)]
    for name in names:
        mean = sum(sample.get(name).item() for sample in samples) / 3
        assert found[f'recon/{name}'] == pytest.approx(mean)


def test_twelve_that_paint_alone_are_in_the_order_of_the_depth():
    names = [f'pair_{g}' for g in range(12)]
    metric = ReconstructionError()
    metric.process({}, [dict.fromkeys(sorted([*names, 'recon_error']), 1.0)])
    assert list(metric.evaluate(1)) == ['recon/error', *(f'recon/{name}' for name in names)]


@pytest.mark.parametrize('pairing', ['neighbours', 'none'])
def test_another_loss(pairing):
    """It is asked for every pair, and errors do not follow it; alone, the residual is 0."""
    imgs, found = images(2, 32), []
    for loss in (None, dict(type=Tripled)):
        model = small_mirl(segments=4, pairing=pairing, head=dict(loss=loss))
        torch.manual_seed(1)
        logs = model.loss(imgs)
        logs['loss'].backward()
        torch.manual_seed(1)
        found.append((logs, model.reconstruct(imgs), model.neck.decoders[0].pred.bias.grad))
    (plain, whole, grad), (other, same, other_grad) = found
    torch.testing.assert_close(other['loss'], 3 * plain['loss'])
    torch.testing.assert_close(same.pair_losses, 3 * whole.pair_losses)
    assert torch.equal(same.pair_errors, whole.pair_errors)
    torch.testing.assert_close(other_grad, 3 * grad)
    for name in list(plain)[1:]:
        torch.testing.assert_close(other[name], plain[name])


def gradients(model: MIRL, half: bool = False) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step, and the gradient of every part of the model."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        loss = model.loss(images(8, 32))['loss']
    loss.backward()
    parts, found = parameter_segments(model), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(parts[name], []).append(parameter.grad.flatten().clone())
    return loss.item(), {part: torch.cat(each) for part, each in found.items()}


AOT = dict(backend='aot_eager')  # traced as by the default, without C++
HARDEST = [('neighbours', False), ('none', True), ('none', False)]


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize(('pairing', 'context'), HARDEST)
def test_bfloat16_is_near_float32(pairing, context, with_cp):
    model = small_mirl(
        width=96, heads=4, decoder_width=64, decoder_heads=4, decoder_depth=2, pairing=pairing,
        context=context, backbone=dict(with_cp=with_cp), neck=dict(with_cp=with_cp),
    )  # fmt: skip
    (loss, wanted), (half_loss, found) = gradients(model), gradients(model, half=True)
    assert loss != half_loss and abs(loss - half_loss) < 2e-3 * loss
    assert {'stem', 'segment_0', 'segment_1', 'decoder_0', 'decoder_1', 'neck'} == found.keys()
    for part, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - wanted[part]).norm() < 0.04 * wanted[part].norm(), part


@pytest.mark.parametrize(
    ('pairing', 'context', 'setting'),
    [
        *((*kind, dict(with_cp=True)) for kind in HARDEST),
        ('none', False, dict(compile_blocks=AOT)),
        pytest.param('neighbours', False, dict(compile_blocks=AOT), marks=pytest.mark.long),
        pytest.param('none', True, dict(compile_blocks=AOT), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_settings_for_speed_and_memory_change_nothing(pairing, context, setting):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    kind = dict(segments=4, pairing=pairing, context=context)
    loss, wanted = gradients(small_mirl(**kind))
    same, found = gradients(small_mirl(**kind, backbone=setting, neck=setting))
    assert same == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not counters['graph_break'] and bool(counters['stats']) == ('compile_blocks' in setting)


def test_steps_lower_the_loss():
    """Thirty steps of the two settings together learn one batch."""
    model, imgs = small_mirl(segments=4, pairing='none', context=False), images(4, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(3)
        optimizer.zero_grad()
        loss = model.loss(imgs)['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
