"""The vote against a plain transcription of DINO's protocol."""

import numpy as np
import pytest
import torch

from mirl_mm.errors import UserError
from mirl_mm.measure.knn import check_ks, fitting_ks, knn_accuracy, neighbours


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
    [([5, 61], 'ks is 61'), ([0, 60], 'ks is 0'), ([-3, 61], 'ks is -3, 61'), ([], 'ks is empty')],
)
def test_k_must_fit(ks, message):
    with pytest.raises(UserError) as raised:
        knn_accuracy(*problem(), ks)
    assert str(raised.value) == f'{message}; accepted are 1 to 60, the number of training images'


@pytest.mark.parametrize(
    ('images', 'ks', 'left_out'),
    [(10, [10], '20, 100, 200'), (99, [10, 20], '100, 200'), (170, [10, 20, 100], '200')],
)
def test_default_ks_that_are_too_many_are_left_out_with_a_word(images, ks, left_out):
    found, word = fitting_ks(None, images, '--k')
    assert list(found) == ks
    assert word == f'k-NN without k = {left_out}: there are {images} training images'


def test_ks_that_fit_or_are_given_are_not_left_out():
    assert fitting_ks(None, 200, '--k') == ((10, 20, 100, 200), '')
    assert fitting_ks([200, 3], 200, '--k') == ([200, 3], '')
    for given, images, wrong in ((None, 9, 10), ([10, 200], 170, 200)):
        accepted = f'accepted are 1 to {images}, the number of training images'
        with pytest.raises(UserError, match=f'^--k is {wrong}; {accepted}$'):
            fitting_ks(given, images, '--k')
    with pytest.raises(UserError, match=r'^ks is empty; accepted are 1 to 10, the'):
        check_ks([], 10)
