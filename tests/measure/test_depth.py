from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mirl_mm.measure import depth
from mirl_mm.measure.depth import Probing, classify_curves, drawn, probed_blocks

CLASSES, EACH, KNOWS = 4, 30, 1  # the label is plain behind this of three blocks


def test_blocks():
    assert probed_blocks(12, 1) == list(range(12))
    assert probed_blocks(12, 5) == [1, 6, 11]
    assert probed_blocks(54, 9) == [8, 17, 26, 35, 44, 53]  # the ends of s54's segments


def labelled(names=('a', 'b', 'c', 'd'), each: int = EACH):
    labels = np.arange(len(names)).repeat(each)
    return SimpleNamespace(get_gt_labels=lambda: labels, metainfo=dict(classes=names))


def features(seed: int) -> np.ndarray:
    """[N, K, P, D]: noise, and in the averages behind blocks 1 and 2 the label in it."""
    g = torch.Generator().manual_seed(seed)
    found = torch.randn(CLASSES * EACH, 3, 2, 8, generator=g)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    label = torch.nn.functional.one_hot(labels, 8)
    found[:, KNOWS, 1] += 5 * label
    found[:, 2, 1] += 1.5 * label
    return found.numpy().astype(np.float16)


@pytest.fixture
def curves(monkeypatch):
    found = iter([features(0), features(1)])
    monkeypatch.setattr(depth, 'depth_features', lambda *_: next(found))
    how = Probing([3, 7, 11], ['cls', 'avg'], [], None, None)
    few = drawn(labelled(), [1, 10], 6)
    found = classify_curves(None, labelled(), labelled(), how, 'cache', '', 'a', k=5, few=few)
    return {(*curve.where.values(), curve.name): curve for curve in found}


def test_the_label_is_found_where_it_is(curves):
    for name in ('knn', 'linear'):
        found = curves['avg', name]
        assert found.values[0] < 45 and found.values[KNOWS] > 95
        summary = found.summary([3, 7, 11])
        assert summary['best_block'] == 8 and summary['falls']
        right = found.values[2].double() / 100  # a binomial's deviation, near enough
        expected = 100 * (right * (1 - right) / (CLASSES * EACH)).sqrt()
        assert found.errors[2] == pytest.approx(expected, rel=0.6)
        assert curves['cls', name].values.max() < 45


def test_few_shots_know_less_and_vary(curves):
    for name in ('knn', 'linear'):
        keys = (('avg', name), ('avg', 10, name), ('avg', 1, name))
        full, ten, one = (curves[key] for key in keys)
        assert one.summary([3, 7, 11])['best_block'] == 8
        assert 50 < one.values[KNOWS] < ten.values[KNOWS] <= full.values[KNOWS] + 1
        assert one.errors[KNOWS] > 2 * ten.errors[KNOWS] > 0
    assert curves['avg', 1, 'penalty'].values.tolist() == [pytest.approx(0.1 * 8 / 4)] * 3
    assert curves['avg', 10, 'penalty'].values.tolist() == [pytest.approx(0.1 * 8 / 40)] * 3
    assert curves['avg', 'penalty'].values[KNOWS] in depth.PENALTIES


def test_draws_are_of_each_class_and_differ():
    labels = labelled().get_gt_labels()
    first, again = drawn(labelled(), [3, 30], 4), drawn(labelled(), [3, 30], 4)
    assert {n: len(draws) for n, draws in first.items()} == {3: 4, 30: 4}
    for n, draws in first.items():
        for draw in draws:
            picks = torch.as_tensor(draw)
            assert labels[picks].tolist().count(2) == n and len({*picks.tolist()}) == 4 * n
    picks = [sorted(torch.as_tensor(draw).tolist()) for draw in first[3]]
    assert picks == [sorted(torch.as_tensor(draw).tolist()) for draw in again[3]]
    assert len({*map(tuple, picks)}) == 4
