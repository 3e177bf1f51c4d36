"""A linear classifier on frozen features in closed form: ridge regression on one-hot labels.

Shapes: N training images, M validation images, D width, C classes.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mirl_mm.errors import UserError

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
HELD_OUT = 10  # every tenth training image chooses the penalty
Design = Iterable[tuple[Tensor, Tensor]]  # chunks [n, 1+D], the first feature 1, and labels [n]


def ridge_correct(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    penalties: Sequence[float] = PENALTIES,
    chunk: int = 65536,
) -> tuple[Tensor, float]:
    """Which of [M] are classified right, and the penalty, for features [N, D] and [M, D].

    Features are standardised with the training images' mean and deviation, in float64 so many at a
    time. Every tenth training image is held out to choose the penalty (a share of N; features have
    unit variance) among several; then all of them are fitted.
    """
    if len(penalties) > 1:
        check_enough(len(train))
    classes = int(max(train_labels.max(), val_labels.max())) + 1
    mean, deviation = moments(train, chunk)

    def design(features: Tensor, labels: Tensor) -> Design:
        for x, y in zip(features.split(chunk), labels.split(chunk), strict=True):
            yield F.pad((x.double() - mean) / deviation, (1, 0), value=1.0), y

    held = torch.arange(len(train)) % HELD_OUT == HELD_OUT - 1
    kept, out = (train[~held], train_labels[~held]), (train[held], train_labels[held])
    gram, moment = _normal_equations(design(*kept), classes)
    best = max(penalties, key=lambda x: _correct(design(*out), _solve(gram, moment, x)).sum())
    more = _normal_equations(design(*out), classes)
    weight = _solve(gram + more[0], moment + more[1], best)
    return _correct(design(val, val_labels), weight), best


def check_enough(number: int) -> None:
    """UserError for too few training images to hold any out."""
    if number < HELD_OUT:
        raise UserError(f'the linear probe needs at least {HELD_OUT} training images, got {number}')


def moments(features: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] of [N, D] in float64; the deviation of a constant is 1."""
    mean = sum(x.double().sum(dim=0) for x in features.split(chunk)) / len(features)
    squares = sum(((x - mean) ** 2).sum(dim=0) for x in features.split(chunk))
    deviation = (squares / len(features)).sqrt()
    return mean, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


def _normal_equations(design: Design, classes: int) -> tuple[Tensor, Tensor]:
    """[1+D, 1+D] and [1+D, C]."""
    gram = moment = 0
    for x, labels in design:
        gram = gram + x.T @ x
        moment = moment + x.new_zeros(x.shape[1], classes).index_add_(1, labels, x.T)
    return gram, moment


def _solve(gram: Tensor, moment: Tensor, penalty: float) -> Tensor:
    """[1+D, C]; the first row, the bias, is not penalised."""
    ridge = torch.full((len(gram),), penalty, dtype=torch.float64) * gram[0, 0]  # x their number
    ridge[0] = 0
    return torch.linalg.solve(gram + torch.diag(ridge), moment)


def _correct(design: Design, weight: Tensor) -> Tensor:
    return torch.cat([(x @ weight).argmax(dim=1) == labels for x, labels in design])
