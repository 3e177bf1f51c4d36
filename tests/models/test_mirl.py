import copy

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.structures import DataSample

from mirl_mm.checkpoint import convert_official
from mirl_mm.models import ARCHS, MIRL, MIRLNeck, MIRLResidualLoss, ReconstructionError
from mirl_mm.models.archs import DECODERS
from mirl_mm.models.fit import shapes
from mirl_mm.models.masking import fixed_noise, patchify, sincos_positions
from tests.models.build import (
    assert_as_reference,
    assert_same_gradients,
    images,
    load,
    mirl,
    numbers,
    reference,
    small_mirl,
)

SMALL = {'width': 24, 'depth': 4, 'heads': 2, 'decoder_width': 16, 'decoder_heads': 2}


# --- parity with the reference at other sizes -----------------------------------------------------


@pytest.mark.parametrize(
    ('batch', 'size'),
    [
        (2, {}),
        (1, {**SMALL, 'segments': 2, 'decoder_depth': 2, 'img_size': (96, 96)}),
        (3, {**SMALL, 'segments': 4, 'patch': 8, 'img_size': (32, 48)}),
        (2, {**SMALL, 'segments': 2, 'patch': 4, 'img_size': (16, 16), 'mask_ratio': 0.6}),
        (2, {'depth': 18, 'width': 32, 'heads': 8, 'decoder_width': 48, 'decoder_depth': 2}),
    ],
    ids=str,
)
def test_parity(batch, size):
    """Outputs and every gradient, in float64."""
    plain, ours = reference(**size).double(), mirl(**size)
    ours.load_state_dict(convert_official(plain.state_dict()), strict=True)
    ours.double()
    n = numbers(**size)
    imgs = images(batch, *n['img_size']).double()
    patches = n['img_size'][0] * n['img_size'][1] // n['patch'] ** 2
    noise = torch.rand(batch, patches, generator=torch.Generator().manual_seed(1))

    expected, found = plain(imgs, noise), ours.reconstruct(imgs, noise)
    assert len(found.preds) == n.get('segments', 6)
    assert_as_reference(found, expected)
    assert torch.equal(found.mask.double(), expected.mask)
    assert torch.equal(found.ids_restore, expected.ids_restore)

    found.loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, plain)


@pytest.mark.parametrize('size', [(96, 64), (32, 48)])
def test_parity_on_images_of_another_size(size):
    """The encoder's positions are resized, the decoders' are made for the new grid."""
    ours = load(mirl(), reference().state_dict()).double()
    plain = reference(img_size=size)
    grid = (size[0] // 16, size[1] // 16)
    old, new = ours.backbone.patch_resolution, grid
    plain.pos_embed = ours.backbone.resize_pos_embed(
        ours.backbone.pos_embed, old, new, 'bicubic', 1
    )
    plain.double()
    imgs, noise = images(2, *size).double(), torch.rand(2, grid[0] * grid[1])
    with torch.no_grad():
        expected, found = plain(imgs, noise), ours.reconstruct(imgs, noise)
    assert found.grid == grid
    for left, right in zip(found.preds, expected.preds, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-11)
    assert found.images()['sum'][0].shape == (2, 3, *size)


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arch', 'neck', 'trainable', 'official'),
    [
        ('s54', (384, 384, 1, 12), (96_117_504, 17_020_032), (96_193_152, 17_476_224)),
        ('b48', (768, 512, 2, 16), (340_810_752, 55_589_888), (340_962_048, 56_198_144)),
    ],
)
def test_parameter_counts(arch, neck, trainable, official):
    width, decoder_width, decoder_depth, decoder_heads = neck
    with torch.device('meta'):
        model = mirl(
            backbone={'arch': arch},
            img_size=(224, 224),
            width=width,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
        )
    norms = [model.neck.stem_norm, *model.neck.norms]
    assert count(norms) == 6 * 2 * width  # the official counts have them on neither side
    decoders = [model.neck.stem_embed, *model.neck.decoders]
    assert count([model.neck]) == count(norms) + count(decoders)
    assert (count([model.backbone], True), count(decoders, True)) == trainable

    # The frozen ones: positions of the encoder and the gains. The official code also keeps a table
    # of positions for every decoder; here one is made when needed.
    table = sincos_positions(decoder_width, (14, 14))
    gains = 6 * decoder_width
    assert count(decoders) == count(decoders, True) + gains
    assert (count([model.backbone]), count(decoders) + 6 * table.numel()) == official


def count(modules: list, trainable: bool = False) -> int:
    return sum(
        p.numel() for m in modules for p in m.parameters() if p.requires_grad or not trainable
    )


@pytest.mark.parametrize('segments', [2, 4, 6])
@pytest.mark.parametrize('decoder_depth', [1, 2])
def test_every_trainable_parameter_receives_a_gradient(segments, decoder_depth):
    model = small_mirl(depth=12, segments=segments, decoder_depth=decoder_depth)
    model.reconstruct(images(2, 32)).loss.backward()
    frozen = {'backbone.pos_embed'} | {
        f'neck.decoders.{g}.pred.parametrizations.weight.original0' for g in range(segments)
    }
    parameters = dict(model.named_parameters())
    assert {name for name, p in parameters.items() if not p.requires_grad} == frozen
    for name, parameter in parameters.items():
        if name in frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad.norm() > 0, name


def test_a_pretrained_model_is_kept(tmp_path):
    state = {name: torch.full_like(v, 0.5) for name, v in small_mirl().state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'model.pth')
    model = small_mirl()
    fresh = type(model)(
        copy.deepcopy(model.backbone),
        copy.deepcopy(model.neck),
        copy.deepcopy(model.head),
        init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'model.pth')},
    )
    fresh.init_weights()
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, state[name]), name


# --- the figure -----------------------------------------------------------------------------------


def test_hidden_pixels_do_not_leak():
    model, imgs, noise = small_mirl().eval(), images(2, 32), torch.rand(2, 16)
    first = model.reconstruct(imgs, noise)
    hidden = torch.where(first.mask[..., None] == 1, torch.randn(2, 16, 192), patchify(imgs, 8))
    other = hidden.reshape(2, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 32, 32)
    second = model.reconstruct(other, noise)
    for left, right in zip(first.preds, second.preds, strict=True):
        assert torch.equal(left, right)
    assert (first.loss - second.loss).abs() > 1e-3


def test_batch_of_one():
    model, imgs, noise = small_mirl().eval(), images(3, 32), torch.rand(3, 16)
    together = model.reconstruct(imgs, noise)
    for b in range(3):
        alone = model.reconstruct(imgs[b : b + 1], noise[b : b + 1])
        torch.testing.assert_close(alone.pair_errors[0], together.pair_errors[b])
        torch.testing.assert_close(alone.preds[-1][0], together.preds[-1][b])


def test_losses_of_a_pass_are_means():
    result = small_mirl(segments=4).reconstruct(images(3, 32))
    assert result.pair_errors.shape == (3, 2)
    torch.testing.assert_close(result.pair_losses, result.pair_errors.mean(dim=0))
    torch.testing.assert_close(result.loss, result.pair_errors.mean())
    masked = result.mask.sum()
    for i, (g, h) in enumerate([(0, 3), (1, 2)]):
        error = (result.preds[g] + result.preds[h] - result.target).square().mean(dim=-1)
        torch.testing.assert_close(result.pair_losses[i], (error * result.mask).sum() / masked)


def test_pictures_add_up():
    result = small_mirl(img_size=(32, 48), segments=4).reconstruct(images(2, 32, 48))
    pictures = result.images()
    assert {name: len(parts) for name, parts in pictures.items()} == {
        'main': 2,
        'residual': 2,
        'sum': 2,
    }
    mean = result.patch_mean.reshape(2, 1, 4, 6)
    mean = mean.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)  # of every pixel's patch
    for main, residual, both in zip(*pictures.values(), strict=True):
        assert both.shape == (2, 3, 32, 48)
        torch.testing.assert_close(main + residual - mean, both, rtol=0, atol=1e-5)
    perfect = type(result)(**{**vars(result), 'preds': (result.target,) * 4})
    torch.testing.assert_close(perfect.images()['main'][0], images(2, 32, 48), rtol=0, atol=1e-5)


def test_train_and_eval():
    imgs, noise = images(2, 32), torch.rand(2, 16)
    model = small_mirl(depth=8).train()
    plain = model.reconstruct(imgs, noise).loss
    assert torch.equal(model.eval().reconstruct(imgs, noise).loss, plain)  # nothing is dropped

    dropping = mirl(
        backbone={'drop_path_rate': 0.9, 'drop_rate': 0.2},
        img_size=(32, 32),
        patch=8,
        **{**SMALL, 'depth': 8},
        segments=2,
    )
    dropping.load_state_dict(model.state_dict())
    assert torch.equal(dropping.eval().reconstruct(imgs, noise).loss, plain)
    dropping.train()
    values = {dropping.reconstruct(imgs, noise).loss.item() for _ in range(3)}
    assert len(values) == 3


def test_copies_and_state_dict():
    model, imgs, noise = small_mirl().eval(), images(2, 32), torch.rand(2, 16)
    before = model.reconstruct(imgs, noise).loss
    model.reconstruct(images(1, 48), torch.rand(1, 36))  # leaves no trace
    assert not [name for name in model.state_dict() if 'pos_embed' in name and 'neck' in name]

    twin = copy.deepcopy(model)
    assert torch.equal(twin.reconstruct(imgs, noise).loss, before)
    with torch.no_grad():
        twin.backbone.patch_embed.projection.weight *= 2
    assert not torch.equal(twin.reconstruct(imgs, noise).loss, before)
    assert torch.equal(model.reconstruct(imgs, noise).loss, before)

    fresh = small_mirl().eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh.reconstruct(imgs, noise).loss, before)


def test_bfloat16():
    model, imgs, noise = small_mirl(), images(2, 32), torch.rand(2, 16)
    full = model.reconstruct(imgs, noise)
    with torch.autocast('cpu', torch.bfloat16):
        half = model.reconstruct(imgs, noise)
    assert half.preds[0].dtype == torch.bfloat16
    assert half.loss.dtype == half.target.dtype == torch.float32
    assert torch.equal(half.target, full.target)
    assert torch.equal(half.mask, full.mask)
    precise = [pred.float() for pred in half.preds]  # the error itself is not rounded to bfloat16
    error = MIRLResidualLoss()(*precise, half.target, half.mask)
    torch.testing.assert_close(half.pair_errors[:, 0], error, rtol=1e-6, atol=0)
    assert half.loss != full.loss
    torch.testing.assert_close(half.loss, full.loss, rtol=0.01, atol=0)
    half.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# --- as a model of MMEngine -----------------------------------------------------------------------


def test_loss_is_that_of_a_reconstruction():
    model, imgs = small_mirl(depth=12, segments=6), images(2, 32)
    torch.manual_seed(5)
    expected = model.reconstruct(imgs)
    torch.manual_seed(5)
    found = model(imgs, [DataSample(), DataSample()], mode='loss')
    assert list(found) == ['loss', 'pair_0_5', 'pair_1_4', 'pair_2_3']
    torch.testing.assert_close(found['loss'], expected.loss)
    for name, value in zip(list(found)[1:], expected.pair_losses, strict=True):
        torch.testing.assert_close(found[name], value)
        assert not found[name].requires_grad
    total, logged = model.parse_losses(found)  # MMEngine sums every key with "loss" in it
    assert total == found['loss']
    assert logged.keys() == found.keys()


def samples(paths: list[str]) -> list[DataSample]:
    return [DataSample(metainfo={'img_path': path}) for path in paths]


def test_prediction_depends_on_the_image_alone():
    model, imgs = small_mirl().eval(), images(6, 32)
    paths = [f'/some/folder/{i}.png' for i in range(6)]
    state = torch.get_rng_state()
    together = [s.recon_error.item() for s in model(imgs, samples(paths), mode='predict')]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(together)) == 6

    order = [4, 2, 0, 5, 1, 3]
    found = {}
    for part in (order[:1], order[1:4], order[4:]):
        elsewhere = samples([paths[i].replace('/some/', '/moved/') for i in part])
        for i, sample in zip(part, model(imgs[part], elsewhere, mode='predict'), strict=True):
            found[i] = sample.recon_error.item()
    torch.testing.assert_close([found[i] for i in range(6)], together)

    same_image = model(imgs[:1].expand(6, -1, -1, -1), samples(paths), mode='predict')
    assert len({s.recon_error.item() for s in same_image}) == 6  # every file has its own mask


def test_prediction_is_the_error_of_a_reconstruction():
    model, imgs = small_mirl(segments=4).eval(), images(2, 32)
    files = samples(['x/a.png', 'b.png'])
    errors = model.reconstruct(
        imgs, fixed_noise(imgs, files, model.backbone.patch_size)
    ).pair_errors
    for sample, row in zip(model.predict(imgs, files), errors, strict=True):
        torch.testing.assert_close(sample.recon_error, row.mean())
        torch.testing.assert_close(sample.pair_0_3, row[0])
        torch.testing.assert_close(sample.pair_1_2, row[1])
        assert not sample.recon_error.requires_grad


def test_images_without_a_name_have_the_mask_of_their_place():
    model, imgs = small_mirl().eval(), images(2, 32)
    nameless = model.predict(imgs)
    named = model.predict(imgs, samples(['0', 'folder/1']))
    assert [s.recon_error for s in nameless] == [s.recon_error for s in named]
    noise = fixed_noise(imgs, nameless, model.backbone.patch_size)
    assert noise.shape == (2, 16)
    same = fixed_noise(imgs, samples(['0', '1']), model.backbone.patch_size)
    assert torch.equal(noise, same)
    assert not torch.equal(noise[0], noise[1])


def test_reconstruction_error_is_the_mean_over_images():
    model, imgs = small_mirl(segments=4).eval(), images(5, 32)
    paths = [f'{i}.png' for i in range(5)]
    metrics = {}
    for split in ([2, 3], [5], [1, 1, 1, 1, 1]):
        evaluator = Evaluator({'type': 'ReconstructionError'})
        assert isinstance(evaluator.metrics[0], ReconstructionError)
        start = 0
        for length in split:
            part = slice(start, start + length)
            evaluator.process(model.predict(imgs[part], samples(paths[part])))
            start += length
        metrics[len(split)] = evaluator.evaluate(5)
    predicted = model.predict(imgs, samples(paths))
    expected = {
        f'recon/{name}': sum(getattr(s, field).item() for s in predicted) / 5
        for name, field in [
            ('error', 'recon_error'),
            ('pair_0_3', 'pair_0_3'),
            ('pair_1_2', 'pair_1_2'),
        ]
    }
    assert list(metrics) == [2, 1, 5]
    for found in metrics.values():
        assert found == pytest.approx(expected, rel=1e-5)


# --- parts that fit, and parts that do not --------------------------------------------------------


def built(arch: str | dict, neck: dict | None = None, **backbone) -> MIRL:
    """From an arch alone."""
    return MIRL(
        dict(type='MIRLViT', arch=arch, **backbone),
        dict(type='MIRLNeck', **(neck or {})),
        dict(type='MIRLHead'),
    )


@pytest.mark.parametrize('arch', ARCHS)
def test_an_arch_brings_its_neck_and_head(arch):
    numbers = ARCHS[arch]
    with torch.device('meta'):
        model = built(arch, patch_size=14, img_size=28, in_channels=1)
    decoder = model.neck.decoders[0]
    sizes = (decoder.embed.out_features, len(decoder.blocks), decoder.blocks[0].num_heads)
    assert sizes == tuple(numbers[key] for key in DECODERS)
    assert model.neck.embed_dim == decoder.embed.in_features == numbers['embed_dims']
    assert len(model.neck.decoders) == model.neck.num_segments == numbers['num_segments']
    assert (model.head.patch_size, model.head.in_channels) == (14, 1)
    assert decoder.pred.out_features == 14 * 14


def test_explicit_decoders_win():
    with torch.device('meta'):
        model = built('b24', dict(decoder_embed_dim=64), num_segments=6)
    assert (len(model.neck.decoders), model.neck.stem_embed.out_features) == (6, 64)
    assert len(model.neck.decoders[0].blocks) == ARCHS['b24']['decoder_depth']


def test_the_decoders_of_a_dict_arch_are_the_necks_own():
    arch = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=96)
    with torch.device('meta'):
        model = built(arch, num_segments=2)
    plain = MIRLNeck(embed_dim=24, num_segments=2, decoder_embed_dim=512)
    assert shapes(model.neck.state_dict()) == shapes(plain.state_dict())


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        ({'neck': {'num_segments': 4}}, ['num_segments of backbone and neck', '2 and 4']),
        ({'neck': {'embed_dim': 48}}, ['embed_dim of backbone and neck', '24 and 48']),
        ({'head': {'patch_size': 16}}, ['patch_size of backbone and head', '8 and 16']),
        ({'neck': {'patch_size': 16}}, ['patch_size of backbone and neck', '8 and 16']),
        ({'neck': {'in_channels': 1}}, ['in_channels of backbone and neck', '3 and 1']),
        ({'head': {'in_channels': 1}}, ['in_channels of backbone and head', '3 and 1']),
        (
            {'backbone': {'in_channels': 1}, 'head': {'in_channels': 3}},
            ['in_channels of backbone and head', '1 and 3'],
        ),
    ],
    ids=str,
)
def test_parts_have_to_fit(parts, words):
    with pytest.raises(ValueError, match='must be equal') as error:
        small_mirl(**parts)
    for word in words:
        assert word in str(error.value)


def test_unknown_mode():
    with pytest.raises(RuntimeError, match='Invalid mode "paint"'):
        small_mirl()(images(1, 32), mode='paint')
