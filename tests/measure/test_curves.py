import pytest
import torch

from mirl_mm.measure.curves import Curve, mean, parts_of, standard_error

BLOCKS = [1, 3, 5]


def curve(values, less=False):
    return Curve.of('knn', parts_of(values), mean, less)


def test_of_means_the_jackknife_is_the_standard_error():
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    found = curve(values)
    assert found.values.tolist() == pytest.approx(values.mean(dim=0).tolist())
    expected = values.std(dim=0) / 10**0.5  # parts of one image each
    assert found.errors.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_parts_that_do_not_go_round():
    sums = parts_of(torch.arange(23.0)[:, None])
    assert sums.shape == (10, 2, 1)
    assert sums[:, 1, 0].tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert sums[2, 0, 0] == 2 + 12 + 22
    assert mean(sums.sum(dim=0)).item() == 11
    assert len(parts_of(torch.ones(4, 1))) == 4  # of fewer images


def test_it_falls_behind_its_best_block():
    values = torch.tensor([[0.1, 0.9, 0.5]]) + torch.linspace(-0.3, 0.3, 20)[:, None]
    found = curve(values).summary(BLOCKS)
    assert found['best_block'] == 4 and found['best'] == pytest.approx(0.9)
    assert found['fall'] == pytest.approx(0.4) and found['last'] == pytest.approx(0.5)
    assert found['error'] > 0.01  # of the images
    assert found['fall_error'] == pytest.approx(0, abs=1e-6)  # which they share
    assert found['falls'] is True
    found = curve(values, less=True).summary(BLOCKS)
    assert found['best_block'] == 2 and found['fall'] == pytest.approx(0.4) and found['falls']


def test_within_its_spread_it_does_not_fall():
    noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    found = curve(noise - noise.mean(dim=0) + torch.tensor([0.0, 1.0, 0.9])).summary(BLOCKS)
    assert found['best_block'] == 4 and not found['falls']
    assert found['fall'] == pytest.approx(0.1) and found['fall_error'] > 0.1
    assert curve(torch.tensor([[1.0, 2.0, 3.0]]).repeat(9, 1)).summary(BLOCKS)['fall'] == 0


def test_standard_error_of_equal_measures_is_0():
    assert standard_error(torch.ones(10, 2)).tolist() == [0, 0]


def test_the_spread_of_draws_is_their_deviation():
    draws = torch.tensor([[1.0, 5.0], [2.0, 3.0], [6.0, 4.0]])
    found = Curve.of_draws('knn', draws)
    assert found.values.tolist() == [3, 4]
    assert found.errors.tolist() == pytest.approx(draws.std(dim=0).tolist())
    fall = draws[:, 1] - draws[:, 0]
    summary = found.summary([0, 1])
    assert summary['best_block'] == 2
    turned = Curve.of_draws('knn', draws.flip(1)).summary([0, 1])
    assert turned['fall'] == 1 and turned['fall_error'] == pytest.approx(fall.std().item())
