"""Means, spread, and what is beyond it, from whatever rows are there."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from benchmarks.markdown import markdown

from .grid import (
    DEPTHS,
    EPOCHS,
    METHODS,
    RATE,
    RATES,
    RUNS,
    SCRATCH,
    SCRATCH_LONG,
    SEEDS,
    UNTRAINED,
)

NAMES = dict(mirl='MIRL', mae='MAE', untrained='untrained') | {
    SCRATCH: 'from scratch, as many iterations',
    SCRATCH_LONG: 'from scratch, as much time',
}
CURVES = dict(knn20='20-NN', ridge='ridge', segment='segment')
IMAGES = 35_000  # of an epoch of grid A
COMMAND = '`python -m benchmarks.study run --minutes M`'
CAUTION = (
    '"Beyond the spread" is said where the worst seed of one is above the best of the other. Of '
    'three against three seeds of one kind that happens once in ten times by chance.'
)
PUBLISHED = (
    'Published for MIRL, ImageNet-1K, 300 epochs, fine-tuned: 83.5 % with 12 blocks of 768, 84.7 '
    'with 24, 85.3 with 48; the paper says that plain masked autoencoding degrades with depth. Its '
    'runs are a hundred times wider in parameters, a thousand times longer in images, and read by '
    'fine-tuning: what shows here need not show there, nor the other way round.'
)


Groups = Mapping[tuple[int, str], Sequence[dict]]  # rows by depth and method, none empty


def all_tables(found: Mapping[str, dict]) -> dict[str, str]:
    """In Markdown, by name."""
    made = dict(tiny=tiny, length=length, search=search, camvid=camvid, cost=cost)
    return {f'study_{name}': make(list(found.values())) for name, make in made.items()}


def tiny(found: Sequence[dict], epochs: int = EPOCHS[0]) -> str:
    """Grid A at its first length: a line for every depth and method, and what depth brings."""
    kinds = [(depth, method) for depth in DEPTHS for method in (*METHODS, UNTRAINED)]
    groups = {kind: group for kind in kinds if (group := of(found, *kind, epochs))}
    parts = [depths(groups), *sentences(groups)] if groups else []
    return '\n\n'.join([state(groups, len(kinds)), *parts, PUBLISHED])


def depths(groups: Groups) -> str:
    """A line for every depth and method; means, and the range over the seeds."""
    curves = curves_of(groups)
    lines = [
        [
            depth,
            NAMES[method],
            group[0]['epochs'],
            len(group),
            spread([row['held_out_error'] for row in group], 4),
            *(spread([at(row[key]) for row in group]) for key in curves for at in (max, last)),
        ]
        for (depth, method), group in groups.items()
    ]
    heads = [f'{name}, {where}' for name in curves.values() for where in ('best block', 'last')]
    return markdown(['blocks', 'method', 'epochs', 'seeds', 'held-out error', *heads], lines)


def curves_of(groups: Groups) -> dict[str, str]:
    """What these rows have measured behind every block."""
    return {key: name for key, name in CURVES.items() if all(key in g[0] for g in groups.values())}


def sentences(groups: Groups) -> list[str]:
    """What depth brings each method, and what MIRL brings at each depth, by the last block."""
    said = []
    for key, name in curves_of(groups).items():
        pairs = {
            f'{NAMES[method]} {less} to {more} blocks': ((more, method), (less, method))
            for method in METHODS
            for less, more in pairwise(DEPTHS)
        }
        pairs |= {
            f'MIRL against MAE with {depth} blocks': tuple((depth, m) for m in METHODS)
            for depth in DEPTHS
        }
        words = [
            f'{what} {compared(key, groups[one], groups[other])}'
            for what, (one, other) in pairs.items()
            if one in groups and other in groups
        ]
        said += [f'* {name}, last block: {"; ".join(words)}.'] if words else []
    return ['\n'.join(said), CAUTION] if said else []


def compared(key: str, one: Sequence[dict], other: Sequence[dict]) -> str:
    """The difference of the means in points, and whether it is beyond the spread of the seeds."""
    left, right = ([row[key][-1] for row in group] for group in (one, other))
    difference = f'{statistics.mean(left) - statistics.mean(right):+.1f}'
    if min(len(left), len(right)) < 2:
        return f'{difference} (one seed, says nothing yet)'
    apart = min(left) > max(right) or min(right) > max(left)
    return f'{difference} ({"beyond" if apart else "within"} the spread)'


def length(found: Sequence[dict]) -> str:
    """Grid A by epochs: 20-NN and ridge behind the last block."""
    kinds = [(d, m, e) for m in METHODS for d in DEPTHS for e in sorted(EPOCHS)]
    groups = {kind: of(found, *kind) for kind in kinds}
    lines = [
        [
            NAMES[method],
            depth,
            *(
                ' / '.join(spread([row[key][-1] for row in groups[depth, method, epochs]])
                           for key in ('knn20', 'ridge'))
                for epochs in sorted(EPOCHS)
            ),
        ]
        for method in METHODS
        for depth in DEPTHS
    ]  # fmt: skip
    head = ['method', 'blocks', *(f'{e} epochs, 20-NN / ridge' for e in sorted(EPOCHS))]
    return f'{state(groups, len(kinds))}\n\n{markdown(head, lines)}'


def search(found: Sequence[dict]) -> str:
    """The tries of the learning rate: one epoch at the least depth, as many for each method."""
    lines = []
    for rate in RATES:
        cells = []
        for method in METHODS:
            group = of(found, DEPTHS[0], method, 1, rate)
            cells.append(
                f'{group[0]["last_loss"]:.4f}, {group[0]["held_out_error"]:.4f}, '
                f'{group[0]["knn20"][-1]:.1f}, {group[0]["ridge"][-1]:.1f}'
                if group
                else '-'
            )
        lines.append([f'{rate:g}{" (chosen)" if rate == RATE else ""}', *cells])
    head = ['rate', *(f'{NAMES[m]}: loss, held-out error, 20-NN, ridge' for m in METHODS)]
    return markdown(head, lines)


def camvid(found: Sequence[dict]) -> str:
    """Grid B: test mIoU by start and labels."""
    starts = dict.fromkeys((r.method, r.data) for r in RUNS.values() if r.grid == 'camvid')
    groups = {
        start: [r for r in found if r['grid'] == 'camvid' and (r['method'], r['data']) == start]
        for start in starts
    }
    lines = [
        [
            f'{NAMES[method]}{f" on {data}" if data else ""}',
            len(group),
            *(spread([row['miou'][labels] for row in group]) for labels in ('all', 'few')),
            spread([row['seconds'] / 60 for row in group], 0),
        ]
        for (method, data), group in groups.items()
    ]
    head = ['start', 'seeds', 'mIoU, 367 labels', 'mIoU, 37 labels', 'minutes, all trainings']
    return '\n\n'.join([state(groups, len(groups)), markdown(head, lines), CAUTION])


def cost(found: Sequence[dict]) -> str:
    """Images per second of one thread by method and depth; hours spent, and still needed."""
    lines, needed = [], 0.0
    done = {row['run'] for row in found}
    for depth in DEPTHS:
        for method in METHODS:
            kind = dict(grid='tiny', depth=depth, method=method)
            rates = [row['images_per_s'] for row in found if kind.items() <= row.items()]
            left = [
                run.epochs
                for run in RUNS.values()
                if run.name not in done and kind.items() <= run._asdict().items()
            ]
            hours = sum(left) * IMAGES / statistics.mean(rates) / 3600 if rates else None
            needed += hours or 0
            said = '-' if hours is None else f'{hours:.1f}'
            lines.append([depth, NAMES[method], spread(rates, 0), len(rates), said])
    head = ['blocks', 'method', 'images/s, one thread', 'runs', 'hours of training left']
    spent = sum(row['seconds'] for row in found) / 3600
    words = f'Training has taken {spent:.1f} hours of one thread so far'
    return f'{markdown(head, lines)}\n\n{words}; by these rates grid A needs {needed:.1f} more.'


def of(
    found: Sequence[dict], depth: int, method: str, epochs: int, rate: float = RATE
) -> list[dict]:
    """Rows of grid A of one kind, by seed."""
    kind = dict(grid='tiny', depth=depth, method=method, rate=rate)
    kind['epochs'] = 0 if method == UNTRAINED else epochs
    group = [row for row in found if kind.items() <= row.items()]
    return sorted(group, key=lambda row: row['seed'])


def last(curve: Sequence[float]) -> float:
    return curve[-1]


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
