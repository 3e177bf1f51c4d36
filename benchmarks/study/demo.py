"""Grid ``demo``: what an encoder is worth to the detection and segmentation of the demo."""

from collections.abc import Iterator, Sequence

from benchmarks.markdown import markdown

from .compare import (
    BEYOND,
    CAUTION,
    ERROR,
    NAMES,
    Groups,
    by_seed,
    difference,
    differences,
    shared,
    spread,
    state,
)
from .grid import DEMO_EPOCHS, DEMO_MAE, RUNS, SCRATCH

SCORES = ('box AP50', 'mask AP50', 'mIoU')
LONGEST, MAE, NONE = ('mirl', DEMO_EPOCHS[-1]), ('mae', DEMO_MAE), (SCRATCH, 0)
MAIN = (LONGEST, NONE), (LONGEST, MAE), (MAE, NONE)
SHORTER = [(('mirl', epochs), NONE) for epochs in DEMO_EPOCHS[:-1]]
NO_PRETRAINING = 'from scratch'


def demo(found: Sequence[dict]) -> str:
    """A line for every start, and how starts differ."""
    kinds, groups = by_start(found)
    parts = [starts(groups)] if groups else []
    said = [f'* {each}.' for each in sentences(groups, [*MAIN, *SHORTER])]
    parts += ['\n'.join(said), CAUTION] if said else []
    return '\n\n'.join([state(groups, kinds), *parts])


def by_start(found: Sequence[dict]) -> tuple[int, Groups]:
    """How many starts there are, and the rows of those that have some, by method and epochs."""
    kinds = dict.fromkeys((r.method, r.epochs) for r in RUNS.values() if r.grid == 'demo')
    rows = sorted((row for row in found if row['grid'] == 'demo'), key=lambda row: row['seed'])
    groups = {
        kind: [row | row['scores'] for row in rows if (row['method'], row['epochs']) == kind]
        for kind in sorted(kinds)
    }
    return len(kinds), {kind: group for kind, group in groups.items() if group}


def starts(groups: Groups) -> str:
    """Means, and the range over the seeds; the CPU time of pre-training."""
    lines = []
    for (method, epochs), group in groups.items():
        seconds = [row['cpu_seconds'].get('pretrain', 0) for row in group]
        name = NO_PRETRAINING if method == SCRATCH else NAMES[method]
        scores = [spread([row[key] for row in group]) for key in SCORES]
        steps = f'{group[0]["steps"]:,}' if epochs else '-'
        cost = spread([each / 60 for each in seconds]) if epochs else '-'
        error = spread([row[ERROR] for row in group], 3)
        lines.append([name, steps, len(group), cost, error, *scores])
    head = ['start', 'iterations of 32', 'seeds', 'CPU minutes, pre-training', 'held-out error']
    return markdown([*head, *SCORES], lines)


def sentences(groups: Groups, pairs: Sequence[tuple]) -> Iterator[str]:
    """How one start of each pair differs from the other, in every score that both have."""
    for pair in pairs:
        if words := [each for key in SCORES for each in differences(groups, {key: pair}, key)]:
            yield f'{" against ".join(map(title, pair))}: {", ".join(words)}'


def title(kind: tuple[str, int]) -> str:
    """A start in words."""
    if kind == NONE:
        return 'scratch'
    return f'{NAMES[kind[0]]}, {kind[1]} passes' if kind not in (LONGEST, MAE) else NAMES[kind[0]]


def verdict(found: Sequence[dict]) -> str:
    """Whether pre-training pays in the demo, for docs/evidence.md."""
    _, groups = by_start(found)
    sides = [[by_seed(groups.get(kind, []), key) for kind in (LONGEST, NONE)] for key in SCORES]
    if not all(shared(*pair) for pair in sides):
        return 'No run yet.'
    gains = [difference(*pair) for pair in sides]
    pays = all(gain.verdict == BEYOND and gain.mean > 0 for gain in gains)
    said = sentences(groups, MAIN)
    return f'{"It pays" if pays else "It does not show yet that it pays"}. {". ".join(said)}.'


def headline(found: Sequence[dict]) -> str:
    """What the starts reach in either task, for the project's README."""
    _, groups = by_start(found)
    names = {
        LONGEST: 'after pre-training',
        NONE: NO_PRETRAINING,
        MAE: 'after MAE in as much time',
    }
    groups = {kind: groups[kind] for kind in names if kind in groups}
    if LONGEST not in groups or NONE not in groups:
        return 'No run yet.'
    said = []
    for key in ('box AP50', 'mIoU'):
        scores = {kind: spread([row[key] for row in group]) for kind, group in groups.items()}
        said.append(f'{key} {", ".join(f"{scores[kind]} {names[kind]}" for kind in scores)}')
    seeds = min(map(len, groups.values()))
    return (
        f'What the demo reaches, on {seeds} seed{"s" * (seeds > 1)}: {"; ".join(said)} '
        '([how](docs/dense.md#what-the-demo-measures)).'
    )
