"""Grid ``ablation``: the method with one setting changed, against the method as it is."""

from collections.abc import Sequence
from itertools import product
from operator import itemgetter

from benchmarks.markdown import markdown

from .compare import (
    CAUTION,
    CURVES,
    ERROR,
    LESS,
    Comparison,
    Groups,
    by_seed,
    compare,
    curves_of,
    grouped,
    spread,
    state,
)
from .grid import CHANGES

NAMES = {
    '': 'the method: mirrored pairs, context, 6 segments, decoders of 1 block, 75 % masked',
    'neighbours': 'pairs of neighbours',
    'unpaired': 'no pairs',
    'no-context': 'no context',
    'segments-2': '2 segments',
    'segments-4': '4 segments',
    'decoders-2': 'decoders of 2 blocks',
    'decoders-4': 'decoders of 4 blocks',
    'mask-0.6': '60 % masked',
    'mask-0.9': '90 % masked',
}
MEASURES = {ERROR: 'held-out error', **CURVES}
OTHER_TASK = ('model.head.pairing', 'model.backbone.mask_ratio')  # errors are of something else
NOT_KNOWN = (
    'What the paper reports of its ablations is not available to us. Its figure has 4 segments, '
    'the released models have 6.'
)
STAR = (
    '\\* of another task: what several decoders paint together, or a larger or smaller part of the '
    'picture. These errors compare with no other line.'
)


def ablation(found: Sequence[dict]) -> str:
    """A line for every setting, and how it differs from the method."""
    groups = by_change(found)
    parts = [state(groups, len(CHANGES))]
    if groups:
        parts += [settings(groups), STAR, *said(groups)]
    return '\n\n'.join([*parts, NOT_KNOWN])


def by_change(found: Sequence[dict]) -> dict[tuple[str], list[dict]]:
    """The grid's rows, by seed; those of the method as it is say nothing of a change."""
    rows = sorted((row for row in found if row['grid'] == 'ablation'), key=itemgetter('seed'))
    groups = {(c,): [row for row in rows if row.get('change', '') == c] for c in CHANGES}
    return {kind: group for kind, group in groups.items() if group}


def comparable(change: str) -> bool:
    """Whether the held-out error is of the same task as the method's."""
    return not CHANGES[change].keys() & set(OTHER_TASK)


def settings(groups: Groups) -> str:
    """Means, and the range over the seeds; the CPU time of an epoch."""
    curves, lines = curves_of(groups), []
    for (change,), group in groups.items():
        minutes = [row['cpu_seconds']['train'] / 60 for row in group if row.get('cpu_seconds')]
        error = spread([row[ERROR] for row in group], 4)
        probed = [spread([at(row[key]) for row in group])
                  for key in curves for at in (max, itemgetter(-1))]  # fmt: skip
        mark = '' if comparable(change) else ' *'
        lines.append([NAMES[change], len(group), f'{error}{mark}', *probed, spread(minutes)])
    heads = [f'{name}, {where}' for name in curves.values() for where in ('best block', 'last')]
    head = ['setting', 'seeds', 'held-out error', *heads, 'CPU minutes, training']
    return markdown(head, lines)


def said(groups: Groups) -> list[str]:
    """Every setting against the method, by what is beyond the spread and what is not."""
    found = against_the_method(groups)
    return ['Against the method:', *grouped(found), f'{CAUTION} {LESS}'] if found else []


def against_the_method(groups: Groups) -> list[Comparison]:
    """The settings that have rows, each by all that compares."""
    found = []
    for change, (key, name) in product(filter(None, CHANGES), MEASURES.items()):
        if key != ERROR or comparable(change):
            sides = [by_seed(groups.get((each,), []), key) for each in (change, '')]
            found += compare(NAMES[change], '', name, *sides, digits=4 if key == ERROR else 1)
    return found
