"""A measure behind every block, its spread, and whether it falls behind its best block.

The spread is the jackknife's: the images are dealt into parts, and the measure is taken again
without each of them (B. Efron, C. Stein, 1981, https://doi.org/10.1214/aos/1176345462).

Shapes: F parts, K blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

PARTS = 10  # of the images: image i is in part i % PARTS


class Curve(NamedTuple):
    """A measure behind blocks."""

    name: str  # of the column, such as knn
    values: Tensor  # [K]
    without: Tensor  # [F, K], without each part; NaN where there is no spread to tell
    less: bool = False  # whether less is better
    where: Mapping[str, object] = MappingProxyType({})  # columns that set it apart, such as a pool

    @classmethod
    def of(
        cls, name: str, sums: Tensor, measure: Callable[[Tensor], Tensor], less: bool = False
    ) -> 'Curve':
        """From sums over each part [F, ...], of which ``measure`` makes [K], as of their total."""
        total = sums.sum(dim=0)
        without = torch.stack([measure(total - part) for part in sums])
        return cls(name, measure(total), without, less)

    @classmethod
    def of_draws(cls, name: str, draws: Tensor) -> 'Curve':
        """The mean of draws [F, K], F > 1; what goes for errors are deviations over draws."""
        apart = len(draws) ** 0.5 / (len(draws) - 1)  # which makes the jackknife's those
        average = draws.mean(dim=0)
        return cls(name, average, average + apart * (draws - average))

    @property
    def errors(self) -> Tensor:
        """Standard errors [K]."""
        return standard_error(self.without)

    def summary(self, blocks: Sequence[int]) -> dict:
        """The best of the blocks (0-based; told from 1), and what is lost from there to the last.

        ``fall`` is how much worse the last one is, and it ``falls`` where that is beyond twice its
        standard error. The best block is chosen on the images that it is measured on.
        """
        best = int((self.values.argmin if self.less else self.values.argmax)())
        sign = 1 if self.less else -1
        fall, without = (sign * (each[..., -1] - each[..., best])
                         for each in (self.values, self.without))  # fmt: skip
        found = dict(best_block=blocks[best] + 1, best=self.values[best], error=self.errors[best])
        found |= dict(last=self.values[-1], fall=fall, fall_error=standard_error(without))
        found = {key: float(x) + 0.0 if isinstance(x, Tensor) else x for key, x in found.items()}
        return found | dict(falls=found['fall'] > 2 * found['fall_error'])


def standard_error(without: Tensor) -> Tensor:
    """[F, ...] -> [...]: the jackknife's, from measures without each of F parts."""
    return ((len(without) - 1) * without.var(dim=0, correction=0)).sqrt()


def parts_of(values: Tensor, parts: int = PARTS) -> Tensor:
    """Values of images [N, ...] -> their sums over parts, and how many, [F, 2, ...]."""
    values = values.double()
    dealt = [values[part::parts] for part in range(min(parts, len(values)))]
    return torch.stack([torch.stack([x.sum(0), torch.full_like(x[0], len(x))]) for x in dealt])


def mean(sums: Tensor) -> Tensor:
    """[2, ...] -> [...]: of what :func:`parts_of` has summed."""
    return sums[0] / sums[1]
