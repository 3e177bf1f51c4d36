import pytest
import torch

from mirl_mm.measure.linear import ridge_correct


def ridge_accuracy(*four, **settings):
    """In percent, and the penalty."""
    right, penalty = ridge_correct(*four, **settings)
    return 100 * right.double().mean().item(), penalty


def problem(noise: float, num: int = 200, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) * 3 // num  # sorted, as in folders
    centres = 3 * torch.randn(3, 6, generator=g)
    return centres[labels] + noise * torch.randn(num, 6, generator=g), labels


def test_separable_classes_are_separated():
    accuracy, penalty = ridge_accuracy(*problem(0.1), *problem(0.1))
    assert (accuracy, penalty) == (100, 1e-4)  # all penalties are equally good: the first


def test_the_solution_is_that_of_least_squares():
    train, labels = problem(3.0)
    val, wanted = problem(3.0)
    val = val + 1.0
    mean, deviation = train.double().mean(0), train.double().std(0, unbiased=False)
    x = (train.double() - mean) / deviation
    design = torch.cat([torch.ones(len(x), 1), x, ], dim=1)  # fmt: skip
    penalty = torch.diag(torch.tensor([0.0] + [0.5 * len(x)] * 6, dtype=torch.float64))
    targets = torch.nn.functional.one_hot(labels).double()
    both = torch.linalg.inv(design.T @ design + penalty) @ design.T @ targets
    scores = torch.cat([torch.ones(len(val), 1), (val.double() - mean) / deviation], dim=1) @ both
    expected = 100 * (scores.argmax(1) == wanted).double().mean().item()
    assert 34 < expected < 99
    assert ridge_accuracy(train, labels, val, wanted, [0.5]) == (pytest.approx(expected), 0.5)
    assert ridge_accuracy(train, labels, val, wanted, [0.5], chunk=7)[0] == pytest.approx(expected)


def test_the_held_out_images_choose_the_penalty():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2  # 90 fitted images of 80 values: without a penalty it overfits
    signal = (labels * 2.0 - 1)[:, None]
    train = torch.cat([signal + torch.randn(100, 1, generator=g), torch.randn(100, 79, generator=g)], 1)  # fmt: skip  # noqa: E501
    accuracy, penalty = ridge_accuracy(train, labels, train, labels)
    assert penalty >= 0.1
    assert accuracy > 80


def test_a_constant_feature_and_halves_do_no_harm():
    train, labels = problem(0.1)
    train = torch.cat([train, torch.full((len(train), 1), 7.0)], dim=1).half()
    assert ridge_accuracy(train, labels, train, labels)[0] == 100


def test_too_few_images():
    features, labels = problem(1.0, num=9)
    with pytest.raises(ValueError, match='at least 10 training images, got 9'):
        ridge_accuracy(features, labels, features, labels)
    assert ridge_accuracy(features, labels, features, labels, [1e-3])[1] == 1e-3  # none held out
