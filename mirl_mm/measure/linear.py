"""A linear classifier on frozen features in closed form: ridge regression on one-hot labels.

Shapes: N training images, M validation images, D width, C classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mirl_mm.errors import UserError

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
HELD_OUT = 10  # every tenth training image chooses the penalty


def ridge_accuracy(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    penalties: Sequence[float] = PENALTIES,
    chunk: int = 65536,
) -> tuple[float, float]:
    """Top-1 accuracy in percent, and the penalty.

    Features are standardised with the training images' mean and deviation. Every tenth training
    image is held out to choose the penalty (a share of N; features have unit variance); then all of
    them are fitted.

    Args:
        train: [N, D], any float dtype; computed in float64.
        train_labels: [N].
        val: [M, D].
        val_labels: [M].
        penalties: to choose from.
        chunk: images that are float64 at a time.

    Raises:
        ValueError: as :func:`check_enough`.
    """
    check_enough(len(train))
    classes = int(max(train_labels.max(), val_labels.max())) + 1
    mean, deviation = moments(train, chunk)

    def standardised(features: Tensor) -> Tensor:
        return (features.double() - mean) / deviation

    held = torch.arange(len(train)) % HELD_OUT == HELD_OUT - 1
    gram, moment = _normal_equations(
        train[~held], train_labels[~held], classes, standardised, chunk
    )
    scores = [
        _correct(standardised(train[held]), train_labels[held], weight, bias)
        for weight, bias in _solve(gram, moment, penalties)
    ]
    best = penalties[max(range(len(penalties)), key=scores.__getitem__)]
    more = _normal_equations(train[held], train_labels[held], classes, standardised, chunk)
    ((weight, bias),) = _solve(gram + more[0], moment + more[1], [best])
    right = sum(
        _correct(standardised(val[i : i + chunk]), val_labels[i : i + chunk], weight, bias)
        for i in range(0, len(val), chunk)
    )
    return 100 * right / len(val), best


def check_enough(num_train: int) -> None:
    """ValueError for too few images to hold any out."""
    if num_train < HELD_OUT:
        raise UserError(
            f'the linear probe needs at least {HELD_OUT} training images, got {num_train}'
        )


def moments(features: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] of [N, D] in float64; the deviation of a constant is 1."""
    starts = range(0, len(features), chunk)
    mean = sum(features[i : i + chunk].double().sum(dim=0) for i in starts) / len(features)
    squares = sum(((features[i : i + chunk] - mean) ** 2).sum(dim=0) for i in starts)
    deviation = (squares / len(features)).sqrt()
    return mean, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


def _normal_equations(
    features: Tensor,
    labels: Tensor,
    classes: int,
    standardised: Callable[[Tensor], Tensor],
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """[1+D, 1+D] and [1+D, C], with a constant 1 as first feature."""
    width = features.shape[1]
    gram = torch.zeros(1 + width, 1 + width, dtype=torch.float64)
    moment = torch.zeros(1 + width, classes, dtype=torch.float64)
    for i in range(0, len(features), chunk):
        x = standardised(features[i : i + chunk])
        x = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
        gram += x.T @ x
        moment.index_add_(1, labels[i : i + chunk], x.T)
    return gram, moment


def _solve(gram: Tensor, moment: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weight [D, C] and bias [C] for every penalty; the bias is not penalised."""
    count = gram[0, 0]
    solutions = []
    for penalty in penalties:
        ridge = torch.full((len(gram),), penalty, dtype=torch.float64) * count
        ridge[0] = 0
        both = torch.linalg.solve(gram + torch.diag(ridge), moment)
        solutions.append((both[1:], both[0]))
    return solutions


def _correct(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> int:
    return int(((x @ weight + bias).argmax(dim=1) == labels).sum())
