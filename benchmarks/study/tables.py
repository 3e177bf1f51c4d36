"""Means, spread, and what is beyond it, from whatever rows are there."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from operator import itemgetter
from pathlib import Path

from benchmarks.markdown import markdown

from .ablation import ablation
from .compare import (
    CAUTION,
    CURVES,
    NAMES,
    Groups,
    by_seed,
    compared,
    curves_of,
    differences,
    shared,
    spread,
    state,
)
from .demo import demo
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
    UNTRAINED,
)
from .stages import Place, stages

LONGER = (
    'Published for MIRL, ImageNet-1K, fine-tuned: 83.5 % at 300 epochs and 84.1 at 800 with 12 '
    'blocks of 768, 85.3 and 86.2 with 48.'
)
ONE_SEED = (
    'One seed of one epoch: there is no spread to say what is beyond it. The official rate is '
    '1.5e-4 for 256 images, at batches of 64 a fiftieth of the chosen one, for wider models and '
    '300 epochs of more images.'
)
NO_DENSE = 'Published figures of MIRL for segmentation are not available to us.'


def all_tables(found: Mapping[str, dict]) -> dict[str, str]:
    """In Markdown, by name."""
    made = dict(tiny=tiny, length=length, search=search, camvid=camvid)
    made |= dict(demo=demo, ablation=ablation, cost=cost)
    return {f'study_{name}': make(list(found.values())) for name, make in made.items()}


def tiny(found: Sequence[dict]) -> str:
    """Grid A at its first length: a line for every depth and method."""
    kinds, groups = by_kind(found)
    parts = [depths(groups)] if groups else []
    return '\n\n'.join([state(groups, len(kinds)), *parts])


def by_kind(found: Sequence[dict]) -> tuple[list[tuple[int, str]], Groups]:
    """All kinds of grid A at its first length, and the rows of those that have some."""
    kinds = [(depth, method) for depth in DEPTHS for method in (*METHODS, UNTRAINED)]
    return kinds, {kind: group for kind in kinds if (group := of(found, *kind, EPOCHS[0]))}


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


def length(found: Sequence[dict]) -> str:
    """Grid A by epochs: 20-NN and ridge behind the last block."""
    lengths, measures = sorted(EPOCHS), ('knn20', 'ridge')
    kinds = list(product(DEPTHS, METHODS, lengths))
    groups = {kind: of(found, *kind) for kind in kinds}
    lines = [
        [
            NAMES[method],
            depth,
            *(
                ' / '.join(spread(list(by_seed(groups[depth, method, epochs], key).values()))
                           for key in measures)
                for epochs in lengths
            ),
        ]
        for method in METHODS
        for depth in DEPTHS
    ]  # fmt: skip
    head = ['method', 'blocks', *(f'{e} epochs, 20-NN / ridge' for e in lengths)]
    pairs = {
        f'{NAMES[method]} with {depth} blocks {less} to {more} epochs':
            ((depth, method, more), (depth, method, less))
        for method, depth in product(METHODS, DEPTHS)
        for less, more in pairwise(lengths)
    } | {
        f'MIRL against MAE with {depth} blocks, {epochs} epochs':
            tuple((depth, method, epochs) for method in METHODS)
        for depth, epochs in product(DEPTHS, lengths)
    }  # fmt: skip
    said = [f'* {CURVES[key]}, last block: {"; ".join(words)}.'
            for key in measures if (words := differences(groups, pairs, key))]  # fmt: skip
    words = ['\n'.join(said), CAUTION] if said else []
    return '\n\n'.join([state(groups, len(kinds)), markdown(head, lines), *words, LONGER])


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
    return f'{markdown(head, lines)}\n\n{ONE_SEED}'


def camvid(found: Sequence[dict]) -> str:
    """Grid B: test mIoU by start and labels."""
    starts = dict.fromkeys((r.method, r.data) for r in RUNS.values() if r.grid == 'camvid')
    groups = {
        start: of_kind(found, dict(grid='camvid', method=start[0], data=start[1]))
        for start in starts
    }
    titles = {start: f'{NAMES[start[0]]}{start[1] and " on "}{start[1]}' for start in starts}
    lines, words = [], []
    for start, group in groups.items():
        cpu = [seconds for row in group if (seconds := timed(row))]
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
            pair = [
                {row['seed']: row['miou'][labels] for row in groups[start]}
                for start in (one, other)
            ]
            if shared(*pair):
                words.append(f'* {count} labels: {titles[one]} against {titles[other]} '
                             f'{compared(*pair)}')  # fmt: skip
    head = ['start', 'seeds', *(f'mIoU, {count} labels' for count in LABELS.values())]
    head += [f'CPU minutes, {count} labels' for count in LABELS.values()]
    said = ['\n'.join(words), CAUTION] if words else []
    return '\n\n'.join([state(groups, len(groups)), markdown(head, lines), *said, NO_DENSE])


def cost(found: Sequence[dict]) -> str:
    """Images per second of one thread by kind of run; hours spent, and still needed.

    By CPU time, so that other work beside a run does not count.
    """
    lines, needed, known = [], 0.0, True
    done = {row['run'] for row in found}
    for name, kind in kinds_of_cost().items():
        used = [(row, seconds) for row in of_kind(found, kind) if (seconds := timed(row))]
        left = [run.epochs for run in RUNS.values()
                if run.name not in done and kind.items() <= run._asdict().items()]  # fmt: skip
        by_length = kind['grid'] == 'tiny' and kind['method'] != UNTRAINED
        train = [(row, seconds['train']) for row, seconds in used if by_length]
        rates = [row['steps'] * row['batch'] / seconds for row, seconds in train]
        fixed = [
            sum(seconds.values()) - (seconds['train'] if by_length else 0) for _, seconds in used
        ]
        said = '-'
        if used:
            hours = len(left) * statistics.mean(fixed) / 3600
            if by_length:
                an_epoch = statistics.mean(seconds / row['epochs'] for row, seconds in train)
                hours += sum(left) * an_epoch / 3600
            needed, said = needed + hours, f'{hours:.1f}'
        known = known and bool(used or not left)
        minutes = spread([seconds / 60 for seconds in fixed], 0)
        lines.append([name, spread(rates, 0), minutes, len(used), len(left), said])
    head = ['runs', 'images/s in training, one thread', 'minutes for all else', 'timed', 'left',
            'hours left']  # fmt: skip
    spent = sum(sum(timed(row).values()) for row in found) / 3600
    without = sum(not timed(row) for row in found)
    parts = [
        f'By CPU time, start-up included. What was timed took {spent:.1f} hours; the rest needs '
        f'{"" if known else "at least "}{needed:.1f} more.'
    ]
    parts += [f'Rows without CPU times: {without}.'] if without else []
    return f'{markdown(head, lines)}\n\n{" ".join(parts)}'


def kinds_of_cost() -> dict[str, dict]:
    """What runs that cost alike have in common, by title."""
    tiny = {
        f'{depth} blocks, {NAMES[method]}': dict(grid='tiny', method=method, depth=depth)
        for depth, method in product(DEPTHS, (*METHODS, UNTRAINED))
    }
    others = {
        f'CamVid, {NAMES[method]}': dict(grid='camvid', method=method)
        for method in (METHODS[0], SCRATCH, SCRATCH_LONG)
    }
    last = {'12 blocks, one epoch, a setting changed': dict(grid='ablation')}
    return tiny | others | last | {'the demo': dict(grid='demo')}


def timed(row: Mapping) -> dict[str, float]:
    """CPU seconds by stage; empty where they are not all known."""
    seconds = row.get('cpu_seconds') or {}
    names = {stage.name for stage in stages(RUNS[row['run']], Place(Path(), Path()))}
    return seconds if names == seconds.keys() else {}


def of_kind(found: Sequence[dict], kind: Mapping) -> list[dict]:
    return [row for row in found if kind.items() <= row.items()]


def of(
    found: Sequence[dict], depth: int, method: str, epochs: int, rate: float = RATE
) -> list[dict]:
    """Rows of grid A of one kind, by seed."""
    if method == UNTRAINED:
        epochs, rate = 0, 0.0
    kind = dict(grid='tiny', depth=depth, method=method, epochs=epochs, rate=rate)
    return sorted(of_kind(found, kind), key=lambda row: row['seed'])
