"""The vote against a plain transcription of DINO's protocol."""

import numpy as np
import pytest
import torch

from mirl_mm.measure.knn import check_ks, knn_accuracy, neighbours


def problem(seed: int = 0, num: int = 60, queries: int = 25, classes: int = 4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (num,), generator=g)
    centres = torch.randn(classes, 8, generator=g)
    train = centres[labels] + 1.5 * torch.randn(num, 8, generator=g)
    wanted = torch.randint(0, classes, (queries,), generator=g)
    return train, labels, centres[wanted] + 1.5 * torch.randn(queries, 8, generator=g), wanted


def by_hand(train, labels, queries, wanted, k, temperature=0.07) -> float:
    train, queries = train.double().numpy(), queries.double().numpy()
    right = 0
    for query, label in zip(queries, wanted.tolist(), strict=True):
        cosine = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = np.zeros(int(labels.max()) + 1)
        for i in np.argsort(-cosine)[:k]:
            votes[labels[i]] += np.exp(cosine[i] / temperature)
        right += votes.argmax() == label
    return 100 * right / len(queries)


@pytest.mark.parametrize('temperature', [0.07, 0.5, 2.0])
def test_accuracies_are_those_of_the_protocol(temperature):
    ks = (1, 5, 20, 60)
    data = problem()
    expected = {k: by_hand(*data, k, temperature) for k in ks}
    assert knn_accuracy(*data, ks, temperature) == pytest.approx(expected)
    assert temperature < 0.5 or len(set(expected.values())) > 1  # k matters


def test_the_temperature_weighs():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])  # cosines 1, 0.8, 0.8 to the query
    data = (train, torch.tensor([0, 1, 1]), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert knn_accuracy(*data, [3], temperature=0.07) == {3: 100}  # e^(1/.07) > 2 e^(.8/.07)
    assert knn_accuracy(*data, [3], temperature=1.0) == {3: 0}


@pytest.mark.parametrize(('train_chunk', 'query_chunk'), [(7, 4), (60, 1), (1, 25)])
def test_chunks_change_nothing(train_chunk, query_chunk):
    data = problem()
    whole, labels = neighbours(*data[:3], k=20)
    parts, part_labels = neighbours(
        *data[:3], k=20, train_chunk=train_chunk, query_chunk=query_chunk
    )
    torch.testing.assert_close(parts, whole)
    assert torch.equal(part_labels, labels)
    assert (whole[:, :-1] >= whole[:, 1:]).all()


def test_half_precision_features_are_enough():
    train, labels, queries, wanted = problem()
    half = knn_accuracy(train.half(), labels, queries.half(), wanted, [20])
    assert half == knn_accuracy(train, labels, queries, wanted, [20])


@pytest.mark.parametrize(
    ('ks', 'message'),
    [([5, 61], 'k=61 is larger than the number of training images, 60'), ([0], 'at least 1')],
)
def test_k_must_fit(ks, message):
    with pytest.raises(ValueError, match=message):
        knn_accuracy(*problem(), ks)
    with pytest.raises(ValueError, match='at least 1'):
        check_ks([], 10)
