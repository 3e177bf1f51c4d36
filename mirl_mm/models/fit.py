"""Names and shapes of a checkpoint against a model's: one comparison, with one wording."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size, Tensor

from mirl_mm.errors import CheckpointError

from .archs import BACKBONE

Shapes = dict[str, Size]
# Of an encoder: what a load must fill, and must not leave out. Final norms and positions may come
# and go, and dense variants have relative positions of their own.
_NEEDED = r'(layers\.|patch_embed\.|cls_token|pre_norm)(?!.*rel_pos)'
_KNOWN = r'(layers\.|patch_embed\.)(?!.*rel_pos)'


@dataclass
class Fit:
    """Names by what became of them."""

    matched: list[str]
    unused: list[str]  # in the file alone
    missing: list[str]  # in the model alone
    resized: list[str]  # positions of another grid, among the matched; resized when loaded


def compare(given: Shapes, wanted: Shapes, who: str, encoder: str = BACKBONE) -> Fit:
    """Hold a checkpoint's encoder, and what else both have, against a model's.

    ``encoder`` is what the names of the encoder start with, ``who`` the model in the messages.

    Raises:
        ValueError: another shape (the first one is named; positions may differ in length), or a
            part of the encoder too many or too few.
    """
    matched = [name for name in wanted if name in given]
    if not matched:
        raise CheckpointError(
            f'the checkpoint holds no weight of {who}: its names are {summary([*given])}'
        )
    encoder = re.escape(encoder)
    if reason := difference(given, wanted, who, encoder + _NEEDED, encoder + _KNOWN, resized=True):
        raise CheckpointError(f'the checkpoint is of another arch: {reason}')
    return Fit(
        matched,
        unused=[name for name in given if name not in wanted],
        missing=[name for name in wanted if name not in given],
        resized=[name for name in matched if given[name] != wanted[name]],
    )


def difference(
    given: Shapes,
    wanted: Shapes,
    who: str,
    needed: str | None = '',
    known: str | None = '',
    resized: bool = False,
) -> str:
    """The first way in which weights do not fit a model, in words; empty where they do.

    Args:
        given, wanted, who: as for :func:`compare`.
        needed: a pattern of the model's names that the checkpoint must have (None: no name).
        known: a pattern of the checkpoint's names that the model must have (None: no name).
        resized: accept positions of another grid, since they are resized when loaded.
    """
    for name, shape in wanted.items():
        there = given.get(name, shape)
        if there != shape and not (resized and _of_other_grid(name, there, shape)):
            return f'{name!r} is {tuple(there)} there and {tuple(shape)} in {who}'
    if lacking := _without(wanted, given, needed):
        return f'it lacks {_first(lacking)}, which {who} has'
    if surplus := _without(given, wanted, known):
        return f'it has {_first(surplus)}, which {who} lacks'
    return ''


def _without(one: Shapes, other: Shapes, pattern: str | None) -> list[str]:
    names = [name for name in one if name not in other]
    return [] if pattern is None else [name for name in names if re.match(pattern, name)]


def _first(names: list[str]) -> str:
    return repr(names[0]) + (f' and {len(names) - 1} more' if names[1:] else '')


def _of_other_grid(name: str, there: Size, here: Size) -> bool:
    """Whether these are positions that differ in their number alone: [1, L, D]."""
    return name.endswith('pos_embed') and len(there) == 3 and there[::2] == here[::2]


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape; what is no tensor is left out."""
    return {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}


def summary(names: Sequence[str], limit: int = 6) -> str:
    """Names in one line: all of a few, numbered families of many."""
    if len(names) <= limit:
        return ', '.join(names) or 'none'
    families = Counter(re.sub(r'\d.*', '*', name) for name in names)
    return ', '.join(
        name if number == 1 else f'{name} ({number})' for name, number in families.items()
    )
