"""The segment probe: its sums against a direct fit, and scenes whose classes can be read off."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from benchmarks.study import segment
from benchmarks.study.segment import Sums

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
    shares, known = segment.shares_of(classes, CLASSES, PATCH)
    assert known.tolist() == [True, False]
    torch.testing.assert_close(shares[0], torch.tensor([0, 2 / 3, 1 / 3], dtype=torch.float64))


def test_miou_by_hand():
    wanted = torch.tensor([[0, 0, 1, 255], [1, 1, 1, 255]])
    found = torch.tensor([[0, 1, 1, 0], [1, 1, 2, 2]])
    confusion = segment.confusion(wanted, found, CLASSES)
    assert confusion.tolist() == [[1, 1, 0], [0, 3, 1], [0, 0, 0]]
    assert segment.miou(confusion) == pytest.approx(100 * (1 / 2 + 3 / 5) / 2)


def scenes(folder, rng, shuffled: bool) -> None:
    """Patches of one colour each; the class is the brightest channel, or drawn by lot."""
    for split, count in (('training', 20), ('test', 5)):
        for kind in ('images', 'annotations'):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            classes = rng.integers(0, CLASSES, (EXTENT[0] // PATCH, EXTENT[1] // PATCH))
            pixels = np.kron(np.eye(3)[classes] * 200 + 20, np.ones((PATCH, PATCH, 1)))
            if shuffled:
                classes = rng.permuted(classes.ravel()).reshape(classes.shape)
            mask = np.kron(classes, np.ones((PATCH, PATCH)))
            Image.fromarray(pixels.astype(np.uint8)).save(
                folder / f'images/{split}/{i}.jpg', quality=95, subsampling=0
            )
            Image.fromarray(mask.astype(np.uint8)).save(folder / f'annotations/{split}/{i}.png')


def test_a_curve_over_scenes(tmp_path):
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        vit = MODELS.build(dict(type='MIRLViT', arch=arch, img_size=16, patch_size=PATCH,
                                num_segments=2))  # fmt: skip
    vit.init_weights()
    vit.eval()
    curves = []
    for name, shuffled in (('read', False), ('lot', True)):
        scenes(tmp_path / name, np.random.default_rng(0), shuffled)
        curves.append(segment.segment_curve(vit, tmp_path / name, CLASSES, EXTENT))
    assert [len(curve) for curve in curves] == [2, 2]
    assert min(curves[0]) > 60 and max(curves[1]) < 40
    assert curves[0] == segment.segment_curve(vit, tmp_path / 'read', CLASSES, EXTENT)
    with pytest.raises(ValueError, match=f'no scenes at {tmp_path}/images/training'):
        segment.segment_curve(vit, tmp_path, CLASSES, EXTENT)
