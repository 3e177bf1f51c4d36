"""Means, spread, and what is beyond it, from whatever rows are there."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from operator import itemgetter

from benchmarks.markdown import markdown

from .grid import (
    DEPTHS,
    EPOCHS,
    LABELS,
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
    '"Beyond the spread" is said where the worst of three seeds is above the best of three others: '
    'of equal things once in ten times by chance, and many are compared here.'
)
PUBLISHED = (
    'Published for MIRL, ImageNet-1K, 300 epochs, fine-tuned: 83.5 % with 12 blocks of 768, 84.7 '
    'with 24, 85.3 with 48; the paper says that plain masked autoencoding degrades with depth. Its '
    'models have a hundred times the parameters and see a thousand times the images, and are read '
    'by fine-tuning: what shows here need not show there, nor the other way round.'
)
NO_DENSE = 'Published figures of MIRL for segmentation are not available to us.'
Groups = Mapping[tuple[int, str], Sequence[dict]]  # rows by depth and method, none empty


def all_tables(found: Mapping[str, dict]) -> dict[str, str]:
    """In Markdown, by name."""
    made = dict(tiny=tiny, length=length, search=search, camvid=camvid, cost=cost)
    return {f'study_{name}': make(list(found.values())) for name, make in made.items()}


def tiny(found: Sequence[dict]) -> str:
    """Grid A at its first length: a line for every depth and method, and what depth brings."""
    kinds = [(depth, method) for depth in DEPTHS for method in (*METHODS, UNTRAINED)]
    groups = {kind: group for kind in kinds if (group := of(found, *kind, EPOCHS[0]))}
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
            *(
                spread([at(row[key]) for row in group])
                for key in curves
                for at in (max, itemgetter(-1))
            ),
        ]
        for (depth, method), group in groups.items()
    ]
    heads = [f'{name}, {where}' for name in curves.values() for where in ('best block', 'last')]
    return markdown(['blocks', 'method', 'epochs', 'seeds', 'held-out error', *heads], lines)


def curves_of(groups: Groups) -> dict[str, str]:
    """What these rows have measured behind every block."""
    return {key: name for key, name in CURVES.items() if all(key in g[0] for g in groups.values())}


def sentences(groups: Groups) -> list[str]:
    """What depth brings each method, MIRL at each depth, and MIRL more than MAE by depth."""
    said, steps = [], list(combinations(DEPTHS, 2))
    for key, name in curves_of(groups).items():
        pairs = {
            f'{NAMES[method]} {less} to {more} blocks': ((more, method), (less, method))
            for method in METHODS
            for less, more in steps
        }
        pairs |= {
            f'MIRL against MAE with {depth} blocks': tuple((depth, m) for m in METHODS)
            for depth in DEPTHS
        }
        words = [
            f'{what} {compared(last_of(groups[one], key), last_of(groups[other], key))}'
            for what, (one, other) in pairs.items()
            if one in groups and other in groups
        ]
        for less, more in steps:
            if gains := more_by_depth(groups, key, less, more):
                values = ', '.join(f'{gain:+.1f}' for gain in gains)
                words.append(f'{less} to {more} blocks bring MIRL more than MAE, by seed: {values}')
        said += [f'* {name}, last block: {"; ".join(words)}.'] if words else []
    return ['\n'.join(said), CAUTION] if said else []


def last_of(group: Sequence[dict], key: str) -> list[float]:
    return [row[key][-1] for row in group]


def compared(one: Sequence[float], other: Sequence[float]) -> str:
    """The difference of the means in points, and whether it is beyond the spread of the seeds."""
    difference = f'{statistics.mean(one) - statistics.mean(other):+.1f}'
    if (fewest := min(len(one), len(other))) < len(SEEDS):
        return f'{difference} ({fewest} of {len(SEEDS)} seeds, says nothing yet)'
    apart = min(one) > max(other) or min(other) > max(one)
    return f'{difference} ({"beyond" if apart else "within"} the spread)'


def more_by_depth(groups: Groups, key: str, less: int, more: int) -> list[float]:
    """MIRL's gain by depth less MAE's, for every seed that all four runs have."""
    gains = {}
    for method in METHODS:
        low, high = (
            {row['seed']: row[key][-1] for row in groups.get((depth, method), [])}
            for depth in (less, more)
        )
        gains[method] = {seed: high[seed] - low[seed] for seed in low.keys() & high.keys()}
    mirl, mae = gains['mirl'], gains['mae']
    return [mirl[seed] - mae[seed] for seed in sorted(mirl.keys() & mae.keys())]


def length(found: Sequence[dict]) -> str:
    """Grid A by epochs: 20-NN and ridge behind the last block."""
    kinds = [(d, m, e) for m in METHODS for d in DEPTHS for e in sorted(EPOCHS)]
    groups = {kind: of(found, *kind) for kind in kinds}
    lines = [
        [
            NAMES[method],
            depth,
            *(
                ' / '.join(spread(last_of(groups[depth, method, epochs], key))
                           for key in ('knn20', 'ridge'))
                for epochs in sorted(EPOCHS)
            ),
        ]
        for method in METHODS
        for depth in DEPTHS
    ]  # fmt: skip
    head = ['method', 'blocks', *(f'{e} epochs, 20-NN / ridge' for e in sorted(EPOCHS))]
    words = []
    for depth, epochs in product(DEPTHS, sorted(EPOCHS)):
        pair = [last_of(groups[depth, method, epochs], 'ridge') for method in METHODS]
        if all(pair):
            words.append(f'{depth} blocks, {epochs} epochs {compared(*pair)}')
    said = [f'* ridge, MIRL against MAE: {"; ".join(words)}.'] if words else []
    return '\n\n'.join([state(groups, len(kinds)), markdown(head, lines), *said])


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
    titles = {start: f'{NAMES[start[0]]}{start[1] and " on "}{start[1]}' for start in starts}
    lines, words = [], []
    for start, group in groups.items():
        cpu = [row['cpu_seconds'] for row in group]
        lines.append(
            [
                titles[start],
                len(group),
                *(spread([row['miou'][labels] for row in group]) for labels in LABELS),
                *(
                    spread([(each.get('pretrain', 0) + each[labels]) / 60 for each in cpu], 0)
                    for labels in LABELS
                ),
            ]
        )
    for one, other in combinations(starts, 2):
        for labels, count in LABELS.items():
            pair = [[row['miou'][labels] for row in groups[start]] for start in (one, other)]
            if all(pair):
                words.append(f'* {count} labels: {titles[one]} against {titles[other]} '
                             f'{compared(*pair)}')  # fmt: skip
    head = ['start', 'seeds', *(f'mIoU, {count} labels' for count in LABELS.values())]
    head += [f'CPU minutes, {count} labels' for count in LABELS.values()]
    said = ['\n'.join(words), CAUTION] if words else []
    return '\n\n'.join([state(groups, len(groups)), markdown(head, lines), *said, NO_DENSE])


def cost(found: Sequence[dict]) -> str:
    """Images per second of one thread by method and depth; hours spent, and still needed.

    By CPU time, so that other work beside a run does not count.
    """
    lines, needed, known = [], 0.0, True
    done = {row['run'] for row in found}
    for depth, method in product(DEPTHS, METHODS):
        kind = dict(grid='tiny', depth=depth, method=method)
        runs = [row for row in found if kind.items() <= row.items() and row.get('cpu_seconds')]
        rates = [row['steps'] * row['batch'] / row['cpu_seconds']['train'] for row in runs]
        probing = [sum(row['cpu_seconds'].values()) - row['cpu_seconds']['train'] for row in runs]
        left = [
            run.epochs
            for run in RUNS.values()
            if run.name not in done and kind.items() <= run._asdict().items()
        ]
        said = '-'
        if rates:
            hours = sum(left) * IMAGES / statistics.mean(rates) / 3600
            hours += len(left) * statistics.mean(probing) / 3600
            needed, said = needed + hours, f'{hours:.1f}'
        known = known and bool(rates or not left)
        minutes = spread([seconds / 60 for seconds in probing], 0)
        lines.append([depth, NAMES[method], spread(rates, 0), minutes, len(rates), len(left), said])
    head = ['blocks', 'method', 'images/s, one thread', 'minutes to probe', 'runs timed',
            'runs left', 'hours left']  # fmt: skip
    spent = sum(sum((row.get('cpu_seconds') or {}).values()) for row in found) / 3600
    words = (
        f'By CPU time, start-up included. What was timed took {spent:.1f} hours; these runs need'
    )
    least = '' if known else 'at least '
    return f'{markdown(head, lines)}\n\n{words} {least}{needed:.1f} more.'


def of(
    found: Sequence[dict], depth: int, method: str, epochs: int, rate: float = RATE
) -> list[dict]:
    """Rows of grid A of one kind, by seed."""
    if method == UNTRAINED:
        epochs, rate = 0, 0.0
    kind = dict(grid='tiny', depth=depth, method=method, epochs=epochs, rate=rate)
    group = [row for row in found if kind.items() <= row.items()]
    return sorted(group, key=lambda row: row['seed'])


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
