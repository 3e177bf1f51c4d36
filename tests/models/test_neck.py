import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from mirl_mm.models import MIRLNeck
from mirl_mm.models.masking import sincos_positions
from mirl_mm.models.vit import MaskedFeatures
from tests.models.build import mirl
from tests.models.test_vit import assert_xavier


def neck(**changes) -> MIRLNeck:
    small = {
        'embed_dim': 24,
        'num_segments': 4,
        'decoder_embed_dim': 16,
        'decoder_depth': 1,
        'decoder_num_heads': 2,
        'patch_size': 4,
    }
    torch.manual_seed(0)
    return MIRLNeck(**{**small, **changes})


def features(grid=(4, 4), kept=4, segments=4, batch=2) -> MaskedFeatures:
    """Random tokens that want gradients."""
    torch.manual_seed(1)
    tokens = [torch.randn(batch, 1 + kept, 24, requires_grad=True) for _ in range(1 + segments)]
    patches = grid[0] * grid[1]
    ids_restore = torch.rand(batch, patches).argsort(dim=1)
    mask = (ids_restore >= kept).float()
    return MaskedFeatures(tokens[0], tuple(tokens[1:]), ids_restore, mask, grid)


@pytest.mark.parametrize('segments', [2, 4, 6])
def test_a_decoder_sees_its_own_and_all_shallower_segments(segments):
    model, inputs = neck(num_segments=segments), features(segments=segments)
    preds = model(inputs)
    assert [tuple(pred.shape) for pred in preds] == [(2, 16, 4 * 4 * 3)] * segments
    for g, pred in enumerate(preds):
        grads = torch.autograd.grad(
            pred.square().sum(), [inputs.stem, *inputs.taps], retain_graph=True, allow_unused=True
        )
        seen = [grad is not None and grad.abs().sum().item() > 0 for grad in grads]
        assert seen == [True] * (2 + g) + [False] * (segments - 1 - g)


def test_masked_patches_differ_by_position_alone():
    """Without positions, all masked patches look the same to a decoder."""
    model, inputs = neck(), features()
    masked = inputs.mask[0].bool()
    assert masked.sum() == 12
    with_positions = model(inputs)[0][0, masked]
    assert (with_positions - with_positions[:1]).abs().max() > 1e-3
    model._positions = lambda grid: torch.zeros(1, 17, 16)
    without = model(inputs)[0][0, masked]
    torch.testing.assert_close(without, without[:1].expand(12, -1), rtol=0, atol=1e-6)


def test_decoders_share_no_parameter():
    model = neck()
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in model.parameters()}) > 4 * 20
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(storages) == len(names)


def test_prediction_columns_have_the_gain_as_length():
    model = neck()
    assert len(model.decoders) == 4
    for decoder in model.decoders:
        assert decoder.pred.weight.shape == (48, 16)
        torch.testing.assert_close(decoder.pred.weight.norm(dim=0), torch.ones(16))
        gain = decoder.pred.parametrizations.weight.original0
        assert not gain.requires_grad
        gain.data[0, 3] = 2.5
        torch.testing.assert_close(decoder.pred.weight[:, 3].norm(), torch.tensor(2.5))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_positions_follow_the_grid(dtype):
    model = neck().to(dtype)
    for grid in [(4, 4), (2, 8), (3, 5), (4, 4)]:
        inputs = features(grid=grid)
        inputs = inputs._replace(
            stem=inputs.stem.to(dtype), taps=tuple(tap.to(dtype) for tap in inputs.taps)
        )
        assert model(inputs)[0].shape == (2, grid[0] * grid[1], 48)
        assert torch.equal(model._positions(grid), sincos_positions(16, grid).to(dtype))
    assert not list(model.buffers())  # averaged models copy buffers, which must keep their size


def test_same_length_other_shape_is_another_grid():
    model = neck()
    wide, tall = model(features(grid=(2, 8)))[0], model(features(grid=(8, 2)))[0]
    assert (wide - tall).abs().max() > 1e-3
    torch.testing.assert_close(model(features(grid=(2, 8)))[0], wide)


def test_positions_made_without_gradients_serve_in_training():
    model = neck()
    with torch.inference_mode():
        model(features())
    sum(pred.square().mean() for pred in model(features())).backward()
    assert model.stem_embed.weight.grad.norm() > 0


def test_initialisation():
    model = neck(embed_dim=48, decoder_embed_dim=64, decoder_num_heads=4)
    model.init_weights()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    # stem; per decoder: embed, pred, and qkv, proj, q, kv, proj, fc1, fc2 of its block
    assert len(linears) == 1 + 4 * (2 + 7)
    assert len(norms) == 1 + 3 + 4 * (4 + 1)
    for linear in linears:
        raw = linear.parametrizations.weight if hasattr(linear, 'parametrizations') else None
        assert_xavier(raw.original1 if raw else linear.weight)
        assert not linear.bias.any()
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
        assert norm.eps == 1e-6
    tokens = torch.cat([decoder.mask_token.flatten() for decoder in model.decoders])
    torch.testing.assert_close(tokens.std().item(), 0.02, rtol=0.15, atol=0)
    assert len(tokens.unique()) == len(tokens)
    assert all((d.pred.parametrizations.weight.original0 == 1).all() for d in model.decoders)


@pytest.mark.parametrize('in_list', [False, True])
def test_pretrained_weights_are_kept(tmp_path, in_list):
    state = {f'neck.{n}': torch.full_like(v, 0.5) for n, v in neck().state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'neck.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'neck.pth'), 'prefix': 'neck.'}
    model = neck(init_cfg=[init_cfg] if in_list else init_cfg)
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f'neck.{name}']), name


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'num_segments': 0}, ['num_segments', 'at least 1', 'got 0']),
        ({'decoder_depth': 0}, ['decoder_depth', 'at least 1', 'got 0']),
        ({'decoder_num_heads': 3}, ['decoder_embed_dim=16', 'decoder_num_heads=3']),
        ({'decoder_embed_dim': 18}, ['decoder_embed_dim=18', 'multiple of 4']),
    ],
    ids=str,
)
def test_bad_construction(change, words):
    with pytest.raises(ValueError) as error:
        neck(**change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ('other', 'first'),
    [
        (
            {'segments': 4},
            r"it lacks 'neck\.norms\.3\.weight' and \d+ more, which this neck \(6 dec",
        ),
        (
            {'decoder_depth': 2},
            r"it has 'neck\.decoders\.0\.blocks\.1\.ln_self\.weight' and \d+ more",
        ),
        ({'context': False}, r"it lacks 'neck\.stem_norm\.weight' and \d+ more, which this neck"),
        ({'decoder_width': 16}, r"'neck\.stem_embed\.weight' is \(16, 48\) there and \(32, 48\)"),
    ],
)
def test_other_decoders_are_refused(other, first, tmp_path):
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': mirl(**other).state_dict()}, path)
    with pytest.raises(ValueError, match=f'other decoders: {first}'):
        load_checkpoint(mirl(), str(path), strict=False)


def test_decoders_with_context_are_refused_by_those_without(tmp_path):
    torch.save({'state_dict': mirl().state_dict()}, tmp_path / 'other.pth')
    other = mirl(context=False)
    message = (
        r"it has 'neck\.decoders\.0\.blocks\.0\.ln_query\.weight' and 59 more, "
        r'which this neck \(6 decoders without context for an encoder 48 wide\) lacks'
    )
    for strict in (True, False):
        with pytest.raises(ValueError, match=f'other decoders: {message}'):
            load_checkpoint(other, str(tmp_path / 'other.pth'), strict=strict)
    again = mirl(context=False)
    again.load_state_dict(other.state_dict(), strict=True)
    for name, value in again.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_an_encoder_alone_may_come(tmp_path):
    source, path = mirl(), tmp_path / 'encoder.pth'
    source.init_weights()
    state = {n: v for n, v in source.state_dict().items() if n.startswith('backbone.')}
    torch.save({'state_dict': state}, path)
    model = mirl()
    load_checkpoint(model, str(path), strict=False)
    loaded = model.backbone.layers[3].attn.qkv.weight
    assert torch.equal(loaded, state['backbone.layers.3.attn.qkv.weight'])
