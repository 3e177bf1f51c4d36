"""The study as pictures: by depth, by block, by length, by setting."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .ablation import NAMES as SETTINGS
from .ablation import by_change, comparable
from .compare import CURVES, ERROR, NAMES, by_seed
from .grid import CHANGES, DEPTHS, EPOCHS, METHODS, UNTRAINED
from .tables import of

COLOURS = dict(mirl='tab:blue', mae='tab:orange') | {UNTRAINED: 'tab:gray'}


def draw(found: Mapping[str, dict], folder: Path) -> Iterator[Path]:
    """``depth.png``, ``blocks.png``, ``length.png``, ``ablation.png``, as far as there are rows.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(found.values())
    pictures = dict(depth=by_depth, blocks=by_block, length=by_length, ablation=by_setting)
    for name, picture in pictures.items():
        figure = picture(rows)
        figure.savefig(folder / f'{name}.png', dpi=110)
        yield folder / f'{name}.png'


def by_depth(rows: Sequence[dict]):
    """What the last block knows, against the depth: means, and bars over the seeds."""
    figure, axes = panels(len(CURVES))
    for place, (key, title) in zip(axes, CURVES.items(), strict=True):
        for method in (*METHODS, UNTRAINED):
            groups = {depth: of(rows, depth, method, EPOCHS[0]) for depth in DEPTHS}
            bars(place, groups, method, key)
        place.set(title=title, xlabel='blocks', xticks=DEPTHS)
    return finished(figure, axes, f'Behind the last block, {EPOCHS[0]} epochs, percent')


def by_block(rows: Sequence[dict]):
    """Curves behind every block: a row of panels for each measure, a column for each depth."""
    figure, axes = panels(len(DEPTHS), len(CURVES))
    for line, (key, title) in zip(axes, CURVES.items(), strict=True):
        for place, depth in zip(line, DEPTHS, strict=True):
            for method in (*METHODS, UNTRAINED):
                curves = [row[key] for row in of(rows, depth, method, EPOCHS[0])]
                if not curves:
                    continue
                blocks, each = range(1, depth + 1), list(zip(*curves, strict=True))
                low, mean, high = ([of_seeds(values) for values in each]
                                   for of_seeds in (min, statistics.mean, max))  # fmt: skip
                look = dict(color=COLOURS[method])
                place.plot(blocks, mean, label=f'{NAMES[method]} ({len(curves)})', **look)
                place.fill_between(blocks, low, high, alpha=0.2, **look)
            place.set(title=f'{title}, {depth} blocks', xlabel='block')
    return finished(figure, axes.flat, f'Behind every block, {EPOCHS[0]} epochs, percent')


def by_length(rows: Sequence[dict]):
    """What the last block knows, against the epochs: a panel for each depth."""
    figure, axes = panels(len(DEPTHS), 2)
    for line, key in zip(axes, ('knn20', 'ridge'), strict=True):
        for place, depth in zip(line, DEPTHS, strict=True):
            for method in METHODS:
                groups = {epochs: of(rows, depth, method, epochs) for epochs in sorted(EPOCHS)}
                bars(place, groups, method, key)
            place.set(title=f'{CURVES[key]}, {depth} blocks', xlabel='epochs', xticks=EPOCHS)
    return finished(figure, axes.flat, 'Behind the last block, percent')


def by_setting(rows: Sequence[dict]):
    """One setting changed: a panel for each measure, every seed a dot, the method's range a band.

    The held-out errors are of the settings that have the method's task.
    """
    groups, changes = by_change(rows), [*reversed(CHANGES)]
    names = [SETTINGS[change].partition(':')[0] for change in changes]
    measures = {ERROR: 'held-out error (less is better)', **CURVES}
    figure, axes = panels(len(measures))
    for place, (key, title) in zip(axes, measures.items(), strict=True):
        for y, change in enumerate(changes):
            values = [*by_seed(groups.get((change,), []), key).values()]
            if not values or (key == ERROR and not comparable(change)):
                continue
            look = dict(color=COLOURS['mirl'])
            if not change:
                place.axvspan(min(values), max(values), alpha=0.2, label='the method', **look)
            place.plot(values, [y] * len(values), 'o', markersize=4, alpha=0.7, **look)
            place.plot(statistics.mean(values), y, '|', markersize=14, **look)
        shown = names if place is axes[0] else []
        place.set(title=title, yticks=range(len(names)), yticklabels=shown)
        place.set_ylim(-0.6, len(names) - 0.4)
        place.locator_params(axis='x', nbins=4)
    title = f'Behind the last block, {DEPTHS[0]} blocks, one epoch, percent'
    return finished(figure, axes, title, seeds='dots')


def panels(columns: int, lines: int = 1):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * columns, 3.2 * lines + 0.4), layout='constrained')
    return figure, figure.subplots(lines, columns, sharey='row' if lines > 1 else 'none')


def bars(
    axes,
    groups: Mapping[int, Sequence[dict]],
    method: str,
    key: str,
) -> None:
    """Means of the last block, the seeds' range as a bar; the number of rows in the legend."""
    known = {x: by_seed(group, key).values() for x, group in groups.items() if group}
    if not known:
        return
    means = [statistics.mean(values) for values in known.values()]
    low = [mean - min(values) for mean, values in zip(means, known.values(), strict=True)]
    high = [max(values) - mean for mean, values in zip(means, known.values(), strict=True)]
    counts = '/'.join(str(len(values)) for values in known.values())
    axes.errorbar(list(known), means, yerr=[low, high], fmt='o-', capsize=4,
                  color=COLOURS[method], label=f'{NAMES[method]} ({counts})')  # fmt: skip


def finished(figure, axes, title: str, seeds: str = 'in brackets'):
    """With grid, legends and a title that says what the numbers in them are, and where seeds."""
    for place in axes:
        place.grid(alpha=0.3)
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=7)
        else:
            place.text(0.5, 0.5, 'no run yet', ha='center', transform=place.transAxes)
    figure.suptitle(f'{title}; {seeds}: seeds', fontsize=10)
    return figure
