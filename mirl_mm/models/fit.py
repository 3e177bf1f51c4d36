"""What of a checkpoint fits where: matched, unused, missing, and no other arch."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size, Tensor

from mirl_mm.errors import CheckpointError

from .archs import BACKBONE

Shapes = dict[str, Size]
_VIT = (BACKBONE + 'layers.', BACKBONE + 'patch_embed.')


@dataclass
class Fit:
    """Names by what became of them."""

    matched: list[str]
    unused: list[str]  # in the file alone
    missing: list[str]  # in the model alone
    resized: list[str]  # positions of another grid, among the matched; resized when loaded


def compare(given: Shapes, wanted: Shapes, who: str) -> Fit:
    """Hold a checkpoint's shapes against a model's.

    Raises:
        ValueError: another shape (the first one is named; positions may differ in length), or a
            block of the encoder too many or too few.
    """
    fit = Fit([], [name for name in given if name not in wanted], [], [])
    other = 'the checkpoint is of another arch'
    for name, shape in wanted.items():
        if name not in given:
            fit.missing.append(name)
            continue
        if given[name] != shape:
            if not _positions_of_other_grid(name, given[name], shape):
                raise CheckpointError(
                    f'{other}: {name!r} is {tuple(given[name])} there and {tuple(shape)} in {who}'
                )
            fit.resized.append(name)
        fit.matched.append(name)
    if not fit.matched:
        raise CheckpointError(
            f'the checkpoint has no weight of {who}: its names are {summary([*given])}'
        )
    if lacking := next((name for name in fit.missing if _of_every_vit(name)), None):
        raise CheckpointError(f'{other}: it lacks {lacking!r}, which {who} has')
    if surplus := next((name for name in fit.unused if _of_every_vit(name)), None):
        raise CheckpointError(f'{other}: it has {surplus!r}, which {who} lacks')
    return fit


def _of_every_vit(name: str) -> bool:
    """Blocks and patch projection; dense variants add relative positions of their own."""
    return name.startswith(_VIT) and 'rel_pos' not in name


def _positions_of_other_grid(name: str, given: Size, wanted: Size) -> bool:
    return (
        name.endswith('pos_embed')
        and len(given) == len(wanted) == 3
        and (given[0], given[2]) == (wanted[0], wanted[2])
    )


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape."""
    return {name: tensor.shape for name, tensor in state.items()}


def summary(names: Sequence[str], limit: int = 6) -> str:
    """Names in one line: all of a few, numbered families of many."""
    if len(names) <= limit:
        return ', '.join(names) or 'none'
    families = Counter(re.sub(r'\d.*', '*', name) for name in names)
    return ', '.join(
        name if number == 1 else f'{name} ({number})' for name, number in families.items()
    )
