from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from mirl_mm.measure import rank
from mirl_mm.measure.features import block_tokens, preprocessor_of
from mirl_mm.measure.rank import cka, cosine, effective_rank, rank_curves
from tests.measure.label_free import METHODS, encoder, images, probing

N, D = 300, 24


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sums(x, y=None):
    x, y = (F.pad(each.double(), (0, 1), value=1) for each in (x, x if y is None else y))
    return x.T @ y


def of_values(s):
    """Centred tokens [N, D] of given singular values."""
    left = torch.linalg.qr(torch.cat([torch.ones(N, 1).double(), tokens(N, D)], dim=1))[0][:, 1:]
    return left * s @ torch.linalg.qr(tokens(D, D, seed=1))[0]


def by_definition(x):
    s = torch.linalg.svdvals(x - x.mean(dim=0))
    p = s / s.sum() + 1e-7
    return torch.exp(-(p * p.log()).sum())


def test_rank_of_known_singular_values():
    ones = torch.ones(D).double()
    assert effective_rank(sums(of_values(ones) + 5)).item() == pytest.approx(D, rel=1e-4)
    one = of_values(ones * (torch.arange(D) == 3))
    assert effective_rank(sums(one)).item() == pytest.approx(1, abs=1e-4)
    s = 0.7 ** torch.arange(D).double()
    p = s / s.sum() + 1e-7
    expected = torch.exp(-(p * p.log()).sum()).item()
    assert 2 < expected < 10
    assert effective_rank(sums(of_values(s) - 2)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('kept', [1, 5, D])
def test_rounding_stays_below_eps(kept):
    """Roots make it larger: 1e-16 of the largest eigenvalue is 1e-8 of a singular value."""
    x = tokens(N, kept) @ tokens(kept, D, seed=1)
    for mean, tolerance in ((0, 1e-5), (10, 1e-4), (100, 1e-3)):  # which is most of a token
        y = (x + mean).float()
        found, expected = effective_rank(sums(y)), by_definition(y.double())
        assert found.item() == pytest.approx(expected.item(), rel=tolerance)


def test_no_more_values_than_tokens():
    x = tokens(6, D)
    found = effective_rank(sums(x)).item()
    assert found == pytest.approx(by_definition(x).item(), rel=1e-6) and found < 5.001


def test_cosine_is_the_mean_over_pairs():
    x = tokens(3, 5, D)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    found = torch.stack([F.cosine_similarity(x[:, i], x[:, j], dim=1) for i, j in pairs])
    torch.testing.assert_close(cosine(x), found.mean(dim=0))
    assert cosine(tokens(1, 1, D).expand(1, 9, D)).item() == pytest.approx(1)
    assert cosine(tokens(1, 500, D)).item() == pytest.approx(0, abs=0.01)


def cka_of(x, y):
    nothing = torch.full_like(sums(x), torch.nan)
    found = cka(torch.stack([torch.stack([sums(x), sums(y)]), torch.stack([nothing, sums(x, y)])]))
    assert found[0].isnan()
    return found[1].item()


def test_cka():
    x, y = tokens(N, D) * torch.linspace(0.1, 2, D) + 3, tokens(N, D, seed=5)
    turned = x @ torch.linalg.qr(y[:D])[0] * 7 - 4
    assert cka_of(x, x) == pytest.approx(1)
    assert cka_of(x, turned) == pytest.approx(1)
    grams = [each @ each.T for each in (x - x.mean(0), y - y.mean(0))]  # of tokens with tokens
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert cka_of(x, y) == pytest.approx(expected.item()) and expected < 0.15


def found_of(tmp_path, kind='MIRLViT', count=4, **how):
    vit, cfg = encoder(tmp_path, kind)
    how = probing(cfg, **how)
    curves = rank_curves(vit, images(tmp_path / 'val', how, count), how, 'T')
    assert [curve.name for curve in curves] == ['rank', 'cka', 'cosine']
    return curves


def test_curves_are_those_of_all_tokens(tmp_path, monkeypatch, capsys):
    vit, cfg = encoder(tmp_path)
    how = probing(cfg, blocks=(0, 2, 3))
    dataset = images(tmp_path / 'val', how)
    curves = found_of(tmp_path, blocks=(0, 2, 3))
    assert 'T, rank: 12 images have 192 patch tokens, not 16,384' in capsys.readouterr().out
    data = torch.stack([dataset[i]['inputs'] for i in range(12)])
    imgs = preprocessor_of(cfg)(dict(inputs=data))['inputs']
    with torch.no_grad():
        behind = [x[:, 1:].double() for x in block_tokens(vit, imgs, how.blocks)]
    for kept, of_curves in ((slice(None), [curve.values for curve in curves[:2]]),
                            (torch.arange(12) % 4 != 1, [c.without[1] for c in curves[:2]])):  # fmt: skip  # noqa: E501
        flat = [x[kept].flatten(0, 1) for x in behind]
        expected = torch.stack([by_definition(x) for x in flat])
        torch.testing.assert_close(of_curves[0], expected, rtol=1e-5, atol=0)
        expected = [cka_of(x, y) for x, y in pairwise(flat)]
        assert of_curves[1][1:].tolist() == pytest.approx(expected, rel=1e-6)
    assert curves[1].values[0].isnan()
    expected = torch.stack([cosine(x).mean() for x in behind])
    torch.testing.assert_close(curves[2].values, expected)
    assert all((curve.errors[1:] > 0).all() for curve in curves)


def test_images_are_spread_over_the_set(tmp_path, monkeypatch, capsys):
    whole = found_of(tmp_path)
    monkeypatch.setattr(rank, 'TOKENS', 6 * 16)
    taken, load = [], rank.loaded

    def watched(dataset, *args):
        taken.extend(dataset.indices)
        return load(dataset, *args)

    monkeypatch.setattr(rank, 'loaded', watched)
    capsys.readouterr()
    half = found_of(tmp_path)
    assert sorted(taken) == [0, 2, 4, 6, 8, 10]
    assert 'patch tokens' not in capsys.readouterr().out
    assert half[0].values[0] != whole[0].values[0]


def test_encoders_of_one_arch_give_the_same_curves(tmp_path):
    found = [found_of(tmp_path, kind) for kind in METHODS]
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one.values, same.values, rtol=1e-4, atol=0, equal_nan=True)


def test_bfloat16_is_close(tmp_path):
    for full, half in zip(found_of(tmp_path), found_of(tmp_path, amp=True), strict=True):
        assert full.values[1] != half.values[1]
        torch.testing.assert_close(full.values, half.values, rtol=0.05, atol=0, equal_nan=True)


def test_one_image_has_no_spread(tmp_path):
    vit, cfg = encoder(tmp_path)
    how = probing(cfg)
    dataset = images(tmp_path / 'val', how).get_subset([0])
    with pytest.raises(ValueError, match='rank takes 2 images or more, got 1'):
        rank_curves(vit, dataset, how, 'T')
