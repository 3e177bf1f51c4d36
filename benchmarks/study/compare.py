"""Differences between groups of runs, and whether they are beyond the spread of the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

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
Kind = tuple[int | str, ...]  # depth and method, and epochs where they differ
Groups = Mapping[Kind, Sequence[dict]]  # rows by kind


def curves_of(groups: Groups) -> dict[str, str]:
    """What these rows, of which no group is empty, have measured behind every block."""
    return {key: name for key, name in CURVES.items() if all(key in g[0] for g in groups.values())}


def sentences(groups: Groups) -> list[str]:
    """What depth brings each method, who leads at each depth, and MIRL's gain against MAE's.

    The held-out error is compared within one method.
    """
    steps = list(combinations(DEPTHS, 2))
    within = {
        f'{NAMES[method]} {less} to {more} blocks': ((more, method), (less, method))
        for method in METHODS
        for less, more in steps
    }
    between = {
        f'{NAMES[one]} against {NAMES[other]} with {depth} blocks': ((depth, one), (depth, other))
        for depth in DEPTHS
        for one, other in combinations((*METHODS, UNTRAINED), 2)
    }
    errors = differences(groups, within, 'held_out_error', digits=4)
    said = [f'* held-out error (less is better): {"; ".join(errors)}.'] if errors else []
    for key, name in curves_of(groups).items():
        words = differences(groups, within | between, key)
        for less, more in steps:
            gains = [gain(groups, method, key, less, more) for method in METHODS]
            if shared(*gains):
                words.append(
                    f"MIRL's gain from {less} to {more} blocks against MAE's {compared(*gains)}"
                )
        said += [f'* {name}, last block: {"; ".join(words)}.'] if words else []
    return ['\n'.join(said), CAUTION] if said else []


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


def compared(one: Mapping[int, float], other: Mapping[int, float], digits: int = 1) -> str:
    """The mean difference over the seeds of both, and whether it is beyond their spread."""
    seeds = shared(one, other)
    difference = f'{statistics.mean(one[s] - other[s] for s in seeds):+.{digits}f}'
    if len(seeds) < len(SEEDS):
        return f'{difference} ({len(seeds)} of {len(SEEDS)} seeds, says nothing yet)'
    first, second = ([side[s] for s in seeds] for side in (one, other))
    apart = min(first) > max(second) or min(second) > max(first)
    return f'{difference} ({"beyond" if apart else "within"} the spread)'


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
