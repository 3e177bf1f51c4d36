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
_NEEDED = r'(layers\.|patch_embed\.|cls_token|register_tokens|pre_norm)(?!.*rel_pos)'
_KNOWN = r'(layers\.|patch_embed\.|register_tokens|pre_norm)(?!.*rel_pos)'
# Parts of an encoder that it has by a setting alone.
_SETTINGS = dict(
    gamma1='layer_scale_init_value', register_tokens='num_registers', pre_norm='pre_norm'
)


@dataclass
class Fit:
    """Names by what became of them."""

    matched: list[str]
    unused: list[str]  # in the file alone
    missing: list[str]  # in the model alone
    resized: list[str]  # positions of another grid, among the matched; resized when loaded


def compare(given: Shapes, wanted: Shapes, who: str, encoder: str = BACKBONE) -> Fit:
    """Hold a checkpoint's encoder, and what else both have, against a model's.

    ``encoder`` is what the names of the encoder start with, ``who`` the model in the messages. An
    error names the first other shape (positions may differ in length) or part too many or too few.
    """
    matched = [name for name in wanted if name in given]
    if not matched:
        found = f'its names are {summary([*given])}'
        raise CheckpointError(f'the checkpoint holds no weight of {who}: {found}')
    encoder = re.escape(encoder)
    if reason := difference(given, wanted, who, encoder + _NEEDED, encoder + _KNOWN, resized=True):
        there, here = ' '.join(given), ' '.join(wanted)
        parts = (part for part in _SETTINGS if (part in there) != (part in here))
        settings = ' and '.join(_SETTINGS[part] for part in parts)
        hint = f'; the settings of the encoder that differ: {settings}' if settings else ''
        raise CheckpointError(f'the checkpoint is of another arch: {reason}{hint}')
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

    ``needed`` is a pattern of the model's names that the checkpoint must have, ``known`` one of the
    checkpoint's that the model must have (None: no name). ``resized`` accepts positions [1, L, D]
    of another grid, since they are resized when loaded.
    """
    for name, shape in wanted.items():
        there = given.get(name, shape)
        if not is_same(name, there, shape, resized):
            how = '; see convert_checkpoint.py --channels' * (there[1:2] == (3,) != shape[1:2])
            return f'{name!r} is {tuple(there)} there and {tuple(shape)} in {who}{how}'
    sides = (wanted, given, needed, 'lacks', 'has'), (given, wanted, known, 'has', 'lacks')
    for one, other, pattern, has, lacks in sides:
        names = [name for name in one if name not in other]
        names = [name for name in names if pattern is not None and re.match(pattern, name)]
        if names:
            more = f' and {len(names) - 1} more' if names[1:] else ''
            return f'it {has} {names[0]!r}{more}, which {who} {lacks}'
    return ''


def is_same(name: str, given: Size, wanted: Size, resized: bool) -> bool:
    """Whether two shapes are equal, or with ``resized`` those of positions of other grids."""
    positions = name.endswith('pos_embed') and len(given) == 3 and given[::2] == wanted[::2]
    return given == wanted or (resized and positions)


def shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape; what is no tensor is left out."""
    return {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}


def summary(names: Sequence[str], limit: int = 6) -> str:
    """Names in one line: all of a few, numbered families of many."""
    if len(names) <= limit:
        return ', '.join(names) or 'none'
    families = Counter(re.sub(r'\d.*', '*', name) for name in names)
    return ', '.join(name if n == 1 else f'{name} ({n})' for name, n in families.items())
