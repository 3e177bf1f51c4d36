"""Ours, and the reference, against what the official implementation computes (tests/data)."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models import ImageClassifier
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from mirl_mm.checkpoint import convert_official, read_checkpoint
from mirl_mm.models import MIRLViT
from mirl_mm.models.masking import gather_tokens, patchify, random_masking, sincos_positions
from tests.models.build import TINY, load, mirl
from tests.models.golden import (
    DATA,
    FEAT,
    GRAD,
    LOSS,
    PRED,
    gradient_errors,
    gradient_norms,
    gradients,
    read,
    read_s54,
    summary,
    weights_from_names,
)
from tests.reference import Reference

PRECISIONS = [torch.float32, torch.float64]


def assert_near(ours: Tensor, golden: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.double(), golden.double(), rtol=0, atol=atol)


def assert_gradients(ours: dict[str, Tensor], golden: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == golden.keys()
    assert len(golden) == 337
    errors = gradient_errors(ours, golden)
    worst = max(errors, key=errors.get)
    assert errors[worst] < tolerance, worst


class Tiny(NamedTuple):
    model: torch.nn.Module
    result: NamedTuple  # what it gives for the golden images and noise, back-propagated


@pytest.fixture(scope='module')
def io() -> dict[str, Tensor]:
    return read('tiny6_io')


@pytest.fixture(scope='module')
def weights() -> dict[str, Tensor]:
    return read('tiny6_weights')


@pytest.fixture(scope='module', params=PRECISIONS, ids=['float32', 'float64'])
def precision(request) -> torch.dtype:
    return request.param


@pytest.fixture(scope='module')
def tiny(precision, io, weights) -> Tiny:
    model = load(mirl(backbone={'arch': 'test'}), weights).to(precision)
    result = model.reconstruct(io['imgs'].to(precision), io['noise'])
    result.loss.backward()
    return Tiny(model, result)


@pytest.fixture(scope='module')
def plain(precision, io, weights) -> Tiny:
    model = Reference(**TINY)
    state = {name: t.t() if t.ndim == 2 else t for name, t in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all('pos_embed' in name for name in missing)
    model.to(precision)
    result = model(io['imgs'].to(precision), io['noise'])
    result.loss.backward()
    return Tiny(model, result)


# --- the tiny model with six segments -------------------------------------------------------------


def test_features(tiny, precision, io):
    with torch.no_grad():
        features = tiny.model.backbone.encode_masked(io['imgs'].to(precision), io['noise'])
        assert_near(tiny.model.neck.stem_norm(features.stem), io['low_feat'], FEAT[precision])
        taps = tiny.model.neck.normed_taps(features)
    assert len(taps) == 6
    for g, tap in enumerate(taps):
        assert_near(tap, io[f'feat{g}'], FEAT[precision])


def test_masking(io):
    ids_keep, ids_restore, mask = random_masking(io['noise'], kept=4)
    assert torch.equal(ids_keep, io['ids_keep'])
    assert torch.equal(ids_restore, io['ids_restore'])
    assert torch.equal(mask, io['mask'])
    kept_first = gather_tokens(torch.arange(16.0).expand(2, 16)[..., None], ids_keep)[..., 0]
    assert torch.equal(kept_first.long(), io['ids_keep'])


def test_mask_and_order_of_a_pass(tiny, io):
    assert torch.equal(tiny.result.mask, io['mask'])
    assert torch.equal(tiny.result.ids_restore, io['ids_restore'])


def test_predictions_losses_and_target(tiny, precision, io):
    result = tiny.result
    assert len(result.preds) == 6
    for g, pred in enumerate(result.preds):
        assert_near(pred, io[f'pred{g}'], PRED[precision])
    assert_near(result.target, io['target'], PRED[precision])
    assert_near(result.patch_mean, io['patch_mean'], PRED[precision])
    assert_near(result.patch_std, (io['patch_var'] + 1e-6).sqrt(), PRED[precision])
    assert_near(result.pair_losses, io['pair_losses'], LOSS[precision])
    assert_near(result.loss, io['loss'], LOSS[precision])


def test_patches_are_the_golden_target_before_normalisation(io):
    golden = io['target'] * (io['patch_var'] + 1e-6).sqrt() + io['patch_mean']
    assert_near(patchify(io['imgs'].double(), 16), golden, 1e-9)


def test_every_gradient(tiny, precision):
    golden = convert_official(read('tiny6_grads'))
    assert_gradients(gradients(tiny.model), golden, GRAD[precision])


def test_key_biases_have_no_gradient(tiny):
    """A softmax does not see what is added to all of its keys, so the true gradient is 0."""
    seen = 0
    for name, grad in gradients(tiny.model).items():
        if name.endswith('qkv.bias'):
            key = grad.chunk(3)[1]
        elif name.endswith('cross_attn.kv.bias'):
            key = grad.chunk(2)[0]
        else:
            continue
        seen += 1
        assert key.abs().max() < 1e-8, name
        assert grad.norm() > 1e-4, name  # of the values at least
    assert seen == 12 + 6 + 6


def test_pictures(tiny):
    golden = read('tiny6_vis')
    images = tiny.result.images()
    assert list(images) == ['main', 'residual', 'sum']
    for ours, official in [('main', 'main'), ('residual', 'res'), ('sum', 'sum')]:
        assert len(images[ours]) == 3
        for i, picture in enumerate(images[ours]):
            assert picture.shape == (2, 3, 64, 64)
            assert_near(picture[:1], golden[f'{official}{i}'], 2e-6)


def test_the_reference(plain, precision, io):
    result = plain.result
    assert_near(result.stem, io['low_feat'], FEAT[precision])
    assert len(result.preds) == len(result.feats) == 6
    for g in range(6):
        assert_near(result.feats[g], io[f'feat{g}'], FEAT[precision])
        assert_near(result.preds[g], io[f'pred{g}'], PRED[precision])
    assert_near(result.target, io['target'], PRED[precision])
    assert torch.equal(result.mask, io['mask'].to(precision))
    assert torch.equal(result.ids_restore, io['ids_restore'])
    assert_near(result.pair_losses, io['pair_losses'], LOSS[precision])
    assert_near(result.loss, io['loss'], LOSS[precision])
    golden = {name: g.t() if g.ndim == 2 else g for name, g in read('tiny6_grads').items()}
    assert_gradients(gradients(plain.model), golden, GRAD[precision])


# --- s54 at full size -----------------------------------------------------------------------------


def test_s54():
    """One test, so that it runs once, however the tests are spread over processes."""
    golden = read_s54()
    shapes = json.loads((DATA / 's54_shapes.json').read_text())
    state = weights_from_names({n: s for n, s in shapes.items() if 'pos_embed' not in n})
    model = load(
        mirl(
            backbone={'arch': 's54'},
            img_size=224,
            width=384,
            decoder_width=384,
            decoder_heads=12,
        ),
        state,
    )
    imgs, noise = torch.from_numpy(golden['imgs']), torch.from_numpy(golden['noise'])

    with torch.no_grad():
        features = model.backbone.encode_masked(imgs, noise)
        taps = model.neck.normed_taps(features)
        summaries = {'low_feat': model.neck.stem_norm(features.stem)}
        summaries |= {f'feat{g}': tap for g, tap in enumerate(taps)}
    result = model.reconstruct(imgs, noise)
    summaries |= {f'pred{g}': pred.detach() for g, pred in enumerate(result.preds)}
    result.loss.backward()

    assert np.array_equal(result.mask, golden['mask'])
    assert np.array_equal(result.ids_restore, golden['ids_restore'])
    np.testing.assert_allclose(result.loss.item(), golden['loss_f64'], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        result.pair_losses.detach(), golden['pair_losses_f64'], rtol=0, atol=1e-6
    )
    assert len(summaries) == 1 + 6 + 6
    for name, tensor in summaries.items():
        atol = (PRED if name.startswith('pred') else FEAT)[torch.float32]
        for kind, value in summary(tensor).items():
            expected = golden[f'{name}_{kind}_f64']
            np.testing.assert_allclose(value, expected, rtol=0, atol=atol, err_msg=f'{name} {kind}')

    norms = gradient_norms(model, state, golden['grad_names'])
    assert norms.keys() == gradients(model).keys()
    assert len(norms) == 841
    np.testing.assert_allclose(list(norms.values()), golden['grad_l2_f64'], rtol=2e-5, atol=0)
    total = np.sqrt(np.square(list(norms.values())).sum())
    np.testing.assert_allclose(total, golden['total_grad_norm_f64'], rtol=1e-6)


# --- a fine-tuned classifier ----------------------------------------------------------------------


def test_official_classifier(precision):
    init_default_scope('mmpretrain')
    golden = read('vit_ft_tiny_io')
    state, info = read_checkpoint(DATA / 'vit_ft_tiny.pd')
    assert info == {'form': 'paddle-mirl', 'layout': 'paddle'}
    arch = {'embed_dims': 48, 'num_layers': 6, 'num_heads': 4, 'feedforward_channels': 192}
    model = ImageClassifier(
        backbone={
            'type': 'MIRLViT',
            'arch': arch,
            'img_size': 64,
            'out_type': 'avg_featmap',
            'final_norm': False,
        },
        head={'type': 'LinearClsHead', 'num_classes': 7, 'in_channels': 48},
    )
    model.load_state_dict(convert_official(state), strict=True)
    model.to(precision).eval()
    suffix = '_f64' if precision == torch.float64 else ''
    with torch.no_grad():
        features = model.extract_feat(golden['imgs'].to(precision))
        assert_near(features[-1], golden['pre_logits' + suffix], FEAT[precision])
        assert_near(model.head(features), golden['logits' + suffix], FEAT[precision])


# --- positions ------------------------------------------------------------------------------------

POSITIONS = read('posembed')
TABLES = sorted(name for name in POSITIONS if name.startswith('sincos'))
RESIZED = sorted(name.removesuffix('_src') for name in POSITIONS if name.endswith('_src'))


@pytest.mark.parametrize('name', TABLES)
def test_position_tables(name):
    _, dim, grid = name.split('_')
    table = sincos_positions(int(dim[1:]), (int(grid[1:]), int(grid[1:])))
    assert torch.equal(table[0], POSITIONS[name])


def test_all_position_tables_are_tried():
    assert set(TABLES) == {f'sincos_d{n}' for n in ('24_g6', '32_g4', '384_g14', '48_g4', '48_g6')}
    assert set(RESIZED) == {'interp_14to24', 'interp_14to7', 'interp_4to6'}


@pytest.mark.parametrize('name', RESIZED)
def test_positions_are_resized_as_officially(name):
    old, new = (int(side) for side in name.removeprefix('interp_').split('to'))
    source, golden = POSITIONS[f'{name}_src'], POSITIONS[f'{name}_dst']
    assert_near(resize_pos_embed(source, (old, old), (new, new), 'bicubic', 1), golden, 5e-6)

    # The same by loading the weights of one image size into a backbone of another.
    arch = {'embed_dims': 8, 'num_layers': 2, 'num_heads': 2, 'feedforward_channels': 8}
    trained = MIRLViT(arch, img_size=16 * old, num_segments=2)
    backbone = MIRLViT(arch, img_size=16 * new, num_segments=2)
    backbone.load_state_dict({**trained.state_dict(), 'pos_embed': source})
    assert_near(backbone.pos_embed.detach(), golden, 5e-6)
