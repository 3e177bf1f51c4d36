"""Differences between groups of runs, and whether they are beyond the spread of the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from .grid import DEPTHS, METHODS, SCRATCH, SCRATCH_LONG, SEEDS, UNTRAINED

NAMES = dict(mirl='MIRL', mae='MAE') | {
    UNTRAINED: 'untrained',
    SCRATCH: 'from scratch, as many iterations',
    SCRATCH_LONG: 'from scratch, as much time',
}
CURVES = dict(knn20='20-NN', ridge='ridge', segment='segment')
COMMAND = '`python -m benchmarks.study run --minutes M`'
CAUTION = (
    'Differences are means over the seeds that both sides have. "Beyond the spread" is said where '
    'the worst of three seeds is above the best of three others: of equal things once in ten times '
    'by chance, and many are compared here.'
)
LESS = 'Of the held-out error less is better.'
Kind = tuple[int | str, ...]  # depth and method, and epochs where they differ
Groups = Mapping[Kind, Sequence[dict]]  # rows by kind
ERROR = 'held_out_error'
BEYOND, WITHIN, FEW = 'beyond the spread', 'within the spread', 'says nothing yet'
GAIN = "MIRL's gain against MAE's"


class Difference(NamedTuple):
    """One measure of two groups of runs, over the seeds that both have."""

    mean: float
    seeds: int
    verdict: str  # BEYOND where the worst of one side is above the best of the other; WITHIN; FEW


class Comparison(NamedTuple):
    """A difference and what it is of."""

    what: str  # 'MIRL against MAE'
    where: str  # 'with 24 blocks'
    measure: str  # '20-NN'
    found: Difference
    digits: int = 1

    @property
    def said(self) -> str:
        return f'{round(self.found.mean, self.digits) + 0.0:+.{self.digits}f}'  # no -0.0


def against(one: str, other: str) -> str:
    return f'{NAMES[one]} against {NAMES[other]}'


def deeper(method: str) -> str:
    return f'{NAMES[method]} by depth'


def curves_of(groups: Groups) -> dict[str, str]:
    """What these rows, of which no group is empty, have measured behind every block."""
    return {key: name for key, name in CURVES.items() if all(key in g[0] for g in groups.values())}


def measures_of(groups: Groups) -> dict[str, str]:
    return {**curves_of(groups), ERROR: 'held-out error'}


def comparisons(groups: Groups) -> list[Comparison]:
    """Who leads at each depth, what depth brings each method, and MIRL's gain against MAE's.

    Behind the last block. The held-out error is compared within one method.
    """
    pairs, steps = {}, list(combinations(DEPTHS, 2))
    for one, other in combinations((*METHODS, UNTRAINED), 2):
        for depth in DEPTHS:
            where = f'with {depth} blocks'
            pairs[against(one, other), where] = (depth, one), (depth, other)
    for method in METHODS:
        for less, more in steps:
            pairs[deeper(method), f'{less} to {more} blocks'] = (more, method), (less, method)
    made = []
    for key, name in measures_of(groups).items():
        for (what, where), kinds in pairs.items():
            if key != ERROR or kinds[0][1] == kinds[1][1]:
                sides = [by_seed(groups.get(kind, []), key) for kind in kinds]
                made += compare(what, where, name, *sides, digits=4 if key == ERROR else 1)
        for less, more in steps if key != ERROR else []:
            gains = [gain(groups, method, key, less, more) for method in METHODS]
            made += compare(GAIN, f'{less} to {more} blocks', name, *gains)
    return made


def compare(
    what: str,
    where: str,
    measure: str,
    one: Mapping[int, float],
    other: Mapping[int, float],
    digits: int = 1,
) -> list[Comparison]:
    """One comparison, or none where the sides have no seed in common."""
    if not shared(one, other):
        return []
    return [Comparison(what, where, measure, difference(one, other), digits)]


def sentences(groups: Groups) -> list[str]:
    """What is beyond the spread of the seeds, what is not, and of what there are too few."""
    found = comparisons(groups)
    return [*grouped(found), f'{CAUTION} {LESS}'] if found else []


def grouped(found: Sequence[Comparison], few: bool = True) -> list[str]:
    """The comparisons by their verdict, a line for each thing that is compared.

    Without ``few``, what says nothing yet is only counted.
    """
    whole = sum(each.found.verdict != FEW for each in found)
    heads = {
        BEYOND: f'**Beyond the spread** of {len(SEEDS)} seeds, {{}} of {whole} comparisons (of '
        'equal things about a tenth would be)',
        WITHIN: f'**Within the spread** of {len(SEEDS)} seeds, {{}} of {whole}',
        FEW: f'**Fewer than {len(SEEDS)} seeds**, which says nothing yet, {{}} comparisons',
    }
    parts = []
    for verdict, head in heads.items():
        some = [each for each in found if each.found.verdict == verdict]
        if some and verdict == FEW and not few:
            where = ', '.join(each[0].where for each in by(some, 'where'))
            parts.append(f'{head.format(len(some))}: {where}.')
        elif some:
            parts += [f'{head.format(len(some))}:', '\n'.join(map(line, by(some, 'what')))]
        elif verdict == BEYOND and whole:
            parts.append(f'{head.format(0)}.')
    return parts


def by(found: Sequence[Comparison], field: str) -> list[list[Comparison]]:
    """Those that have the field in common, together, in the order of the first of each."""
    made: dict[str, list[Comparison]] = {}
    for each in found:
        made.setdefault(getattr(each, field), []).append(each)
    return list(made.values())


def line(found: Sequence[Comparison]) -> str:
    """A bullet of all that is said of one thing."""
    return f'* {found[0].what}: {"; ".join(map(place, by(found, "where")))}.'


def place(found: Sequence[Comparison]) -> str:
    """All that is said of one thing at one depth, or from one depth to another."""
    where, few = found[0].where, {each.found.seeds for each in found} - {len(SEEDS)}
    words = [where] if where else []
    words += [f'({" or ".join(map(str, sorted(few)))} of {len(SEEDS)} seeds)'] if few else []
    return ' '.join([*words, ', '.join(f'{each.measure} {each.said}' for each in found)])


def differences(
    groups: Groups, pairs: Mapping[str, tuple[Kind, ...]], key: str, digits: int = 1
) -> list[str]:
    """What is said of those pairs of kinds that have a seed in common."""
    known = {
        what: [by_seed(groups.get(kind, []), key) for kind in pair] for what, pair in pairs.items()
    }
    return [f'{what} {compared(*both, digits)}' for what, both in known.items() if shared(*both)]


def by_seed(group: Sequence[dict], key: str) -> dict[int, float]:
    """A measure of every seed, behind the last block where it is a curve."""
    found = {row['seed']: row.get(key) for row in group}
    last = {seed: value[-1] if isinstance(value, list) else value for seed, value in found.items()}
    return {seed: value for seed, value in last.items() if value is not None}


def shared(one: Mapping[int, float], other: Mapping[int, float]) -> list[int]:
    """The seeds of both."""
    return sorted(one.keys() & other.keys())


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Of sides that have a seed in common."""
    seeds = shared(one, other)
    mean = statistics.mean(one[s] - other[s] for s in seeds)
    if len(seeds) < len(SEEDS):
        return Difference(mean, len(seeds), FEW)
    first, second = ([side[s] for s in seeds] for side in (one, other))
    apart = min(first) > max(second) or min(second) > max(first)
    return Difference(mean, len(seeds), BEYOND if apart else WITHIN)


def compared(one: Mapping[int, float], other: Mapping[int, float], digits: int = 1) -> str:
    """The mean difference over the seeds of both, and whether it is beyond their spread."""
    mean, seeds, verdict = difference(one, other)
    few = f'{seeds} of {len(SEEDS)} seeds, ' if verdict == FEW else ''
    return f'{mean:+.{digits}f} ({few}{verdict})'


def gain(groups: Groups, method: str, key: str, less: int, more: int) -> dict[int, float]:
    """What depth brings a method, for every seed of both depths."""
    low, high = (by_seed(groups.get((depth, method), []), key) for depth in (less, more))
    return {seed: high[seed] - low[seed] for seed in shared(low, high)}


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean, and the range of several seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    mean = f'{statistics.mean(known):.{digits}f}'
    if len(known) == 1:
        return mean
    return f'{mean} ({min(known):.{digits}f} to {max(known):.{digits}f})'


def state(groups: Mapping[tuple, Sequence[dict]], kinds: int) -> str:
    """How much of it is there."""
    there, whole = sum(map(len, groups.values())), kinds * len(SEEDS)
    if there == whole:
        return f'All {whole} runs.'
    return f'{there} of {whole} runs so far; {COMMAND} goes on.'
