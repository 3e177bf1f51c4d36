"""The segment probe: its sums against a direct fit, features whose classes can be read off."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image

from mirl_mm.apps.scenes import read_scenes
from mirl_mm.measure import cached, segment
from mirl_mm.measure.curves import Curve
from mirl_mm.measure.depth import Probing
from mirl_mm.measure.features import Loading
from mirl_mm.measure.segment import Sums, confusion, miou, segment_curves, shares_of

PATCH, EXTENT, CLASSES = 4, (16, 24), 3


def test_sums_are_a_weighted_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64) * 3 + 1
    features = torch.cat([torch.ones(50, 1, dtype=torch.float64), x], dim=1)
    shares = torch.rand(50, CLASSES, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    sums, half = Sums(1, 5, CLASSES), Sums(1, 5, CLASSES)
    for part, into in ((slice(0, 20), sums), (slice(20, 50), half)):
        into.add(0, features[part], shares[part], weights[part])
        into.energy += (weights[part] * (shares[part] ** 2).sum(dim=1)).sum()
    sums += half
    root = weights.sqrt()[:, None]
    exact = torch.linalg.lstsq(root * features, root * shares).solution
    torch.testing.assert_close(sums.weights(0.0)[0], exact)
    penalised = sums.weights(0.5)
    direct = (weights[:, None] * (features @ penalised[0] - shares) ** 2).sum()
    torch.testing.assert_close(sums.errors(penalised)[0], direct)
    assert penalised[0, 1:].norm() < exact[1:].norm()
    mean = (weights[:, None] * x).sum(dim=0) / weights.sum()  # its fit passes through the means
    wanted = (weights[:, None] * shares).sum(dim=0) / weights.sum()
    torch.testing.assert_close(penalised[0, 0] + mean @ penalised[0, 1:], wanted)


def test_shares_of_patches():
    classes = torch.full((4, 8), 255)
    classes[:2, :4], classes[2, :4] = 1, 2
    shares, known = shares_of(classes, CLASSES, (PATCH, PATCH))
    assert known.tolist() == [True, False]
    torch.testing.assert_close(shares[0], torch.tensor([0, 2 / 3, 1 / 3], dtype=torch.float64))
    shares, known = shares_of(classes, CLASSES, (2, 8))  # of rectangles
    assert known.tolist() == [True, True]
    assert shares.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_miou_and_its_spread_by_hand():
    wanted = torch.tensor([[0, 0, 1, 255], [1, 1, 1, 255]])
    found = torch.tensor([[0, 1, 1, 0], [1, 1, 2, 2]])
    counts = confusion(wanted, found, CLASSES)
    assert counts.tolist() == [[1, 1, 0], [0, 3, 1], [0, 0, 0]]
    assert miou(counts).item() == pytest.approx(100 * (1 / 2 + 3 / 5) / 2)
    perfect = torch.diag(torch.tensor([2, 2, 0]))
    curve = Curve.of('miou', torch.stack([counts, perfect])[:, None], miou)
    assert curve.values.item() == pytest.approx(100 * (3 / 4 + 5 / 7) / 2)
    # Without a part the other is left: 55 % and 100 %.
    assert curve.errors.item() == pytest.approx((100 - 55) / 2)


def write_scenes(folder, counts=(20, 5), lot=False):
    """Columns of patches of one colour each; the class is the brightest channel, or by lot."""
    rng = np.random.default_rng(0)
    for split, count in zip(('training', 'test'), counts, strict=True):
        for kind in ('images', 'annotations'):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            columns = rng.integers(0, CLASSES, EXTENT[1] // PATCH)
            columns[: CLASSES + 1] = *range(CLASSES), columns[3]
            classes = np.tile(columns, (EXTENT[0] // PATCH, 1))
            pixels = np.kron(np.eye(3)[classes] * 200 + 20, np.ones((PATCH, PATCH, 1)))
            if lot:
                classes = rng.permuted(classes.ravel()).reshape(classes.shape)
            mask = np.kron(classes, np.ones((PATCH, PATCH)))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'images/{split}/{i:02}.png')
            Image.fromarray(mask.astype(np.uint8)).save(folder / f'annotations/{split}/{i:02}.png')
    return str(folder)


def encoder(depth=2, **settings):
    arch = dict(embed_dims=16, num_layers=depth, num_heads=2, feedforward_channels=32)
    settings = settings or dict(type='MIRLViT', num_segments=depth)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(dict(settings, arch=arch, img_size=16, patch_size=PATCH))
    vit.init_weights()
    vit.eval()
    return vit


def curve_of(vit, scenes, folder, amp=False):
    norm = ClsDataPreprocessor(mean=[120.0] * 3, std=[60.0] * 3)
    how = Probing(range(vit.num_layers), (), (), norm, Loading(num_workers=0, amp=amp))
    (found,) = segment_curves(vit, scenes, how, folder, 'of this test', 'test')
    return found


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='MIRLViT', num_segments=2, num_registers=2),
        dict(type='VisionTransformer'),
        dict(type='MAEViT'),
    ],
)
def test_any_encoder_reads_off_colours(tmp_path, settings):
    vit, curves = encoder(**settings), []
    for name, lot in (('read', False), ('lot', True)):
        scenes = read_scenes(write_scenes(tmp_path / name, lot=lot), vit, EXTENT, 'test')
        curves.append(curve_of(vit, scenes, tmp_path / 'cache'))
    assert curves[0].values.min() > 99 and curves[1].values.max() < 50
    half = curve_of(vit, scenes, tmp_path / 'cache', amp=True)
    assert 0 < (half.values - curves[1].values).abs().max() < 10
    assert curves[0].name == 'miou' and curves[0].without.shape == (5, 2)


def labelled_tokens(peak):
    """Noise, but behind one block each patch's colour."""

    def tokens(vit, imgs, blocks):
        generator = torch.Generator().manual_seed(int(imgs.double().sum() * 1000) % 1000)
        colours = torch.nn.functional.avg_pool2d(imgs, PATCH).flatten(2).transpose(1, 2)
        for block in blocks:
            found = torch.randn(1, 1 + colours.shape[1], 16, generator=generator)
            if block == peak:
                found[:, 1:, :3] = colours
            yield found

    return tokens


@pytest.mark.parametrize('peak', [0, 2, 3])
def test_the_curve_peaks_where_the_label_sits(tmp_path, monkeypatch, peak):
    monkeypatch.setattr(segment, 'block_tokens', labelled_tokens(peak))
    vit = encoder(depth=4)
    scenes = read_scenes(write_scenes(tmp_path / 'set'), vit, EXTENT, 'test')
    curve = curve_of(vit, scenes, tmp_path / 'cache')
    assert curve.values[peak] == 100 and curve.errors[peak] == 0
    assert curve.values[[k for k in range(4) if k != peak]].max() < 60
    found = curve.summary(range(4))
    assert found['best_block'] == peak + 1 and found['falls'] == (peak < 3)


@pytest.mark.parametrize('stop', [1, 12, 22])  # of 20 for training, then 5
def test_a_stopped_pass_comes_to_the_same(tmp_path, monkeypatch, stop):
    vit = encoder()
    scenes = read_scenes(write_scenes(tmp_path / 'set', lot=True), vit, EXTENT, 'test')
    whole = curve_of(vit, scenes, tmp_path / 'whole')
    monkeypatch.setattr(cached, 'SAVE_EVERY', -1)
    read = segment.load
    seen = []

    def stopped(scene):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(scene)
        return read(scene)

    monkeypatch.setattr(segment, 'load', stopped)
    with pytest.raises(KeyboardInterrupt):
        curve_of(vit, scenes, tmp_path / 'cache')
    monkeypatch.setattr(segment, 'load', lambda scene: seen.append(scene) or read(scene))
    found = curve_of(vit, scenes, tmp_path / 'cache')
    assert torch.equal(found.values, whole.values) and torch.equal(found.without, whole.without)
    assert len(seen) == 25  # each scene once
    curve_of(vit, scenes, tmp_path / 'cache')
    assert len(seen) == 25


def test_a_mask_with_colours_is_refused(tmp_path):
    Image.new('RGB', (4, 4)).save(tmp_path / 'mask.png')
    scene = segment.Scene('', str(tmp_path / 'mask.png'), (4, 4), bytes(range(256)))
    with pytest.raises(
        ValueError, match=r'mask\.png is an image of mode RGB; accepted are masks of one'
    ):
        segment.load_classes(scene)
