"""What a chart is, as plain data, and the one function that draws charts into a file.

A chart is a dict of ``section``, ``title``, ``x`` (what it goes over), ``log`` (the scale) and
``series``: curves of ``name``, ``colour`` (of :data:`LIGHT`, such as ``run-0``), ``dash``, ``run``
(number of it) and the points ``x`` and ``y``, where y is None if it was not finite.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mirl_mm.files import complete_file

POINTS, DOTS = 600, 40  # of a curve; more cannot be seen, or told apart
LIGHT = dict(
    run=('#0b5cad', '#b8420a', '#0f766e', '#7a3aa8', '#7d6100', '#b0266f'),
    depth=('#0b5cad', '#4a4fb8', '#7d3fa8', '#ab3486', '#c73a55', '#b8590a'),
)
DARK = dict(
    run=('#7db8ff', '#ff9d66', '#4fd1c0', '#c9a2ff', '#e3c34f', '#ff8fc4'),
    depth=('#7db8ff', '#a3a8ff', '#c79bff', '#f08fd0', '#ff8f9c', '#ffb066'),
)


def chart(section: str, title: str, series: list[dict], x='iteration', log=False) -> dict:
    return dict(section=section, title=title, x=x, log=log, series=series)


def curve(points: Sequence[tuple], name: str, colour: str, dash=False, run: int = 0) -> list[dict]:
    """The curve through some points (x, y), as a list; empty without any."""
    if not points:
        return []
    x, y = zip(*thinned(points, POINTS), strict=True)
    y = [float(f'{v:.6g}') if math.isfinite(v) else None for v in y]  # enough to look at
    return [dict(name=name, run=run, colour=colour, dash=dash, x=list(x), y=y)]


def thinned(points: Sequence[tuple], most: int) -> Sequence[tuple]:
    """At most so many points, or few more: of each stretch the lowest, the highest and the bad."""
    if len(points) <= most:
        return points
    size, kept = math.ceil(2 * len(points) / most), {points[-1]}
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        finite = sorted((p for p in stretch if math.isfinite(p[1])), key=lambda p: p[1])
        bad = [p for p in stretch if not math.isfinite(p[1])]
        kept.update(finite[:1], finite[-1:], bad[:1])
    return sorted(kept, key=lambda p: p[0])


def run_colour(i: int) -> str:
    return f'run-{i % len(LIGHT["run"])}'


def depth_charts(rows: Sequence[dict], k: int | str = 'k') -> list[dict]:
    """Probes by depth: a chart a probe, a colour a checkpoint, dashes for the cls token.

    ``rows`` have ``label``, ``block``, ``pool``, ``knn``, ``linear``, and ``run`` if some differ.
    """
    lines = defaultdict(list)
    for row in rows:
        lines[row.get('run', 0), row['label'], row.get('pool', '')].append(row)
    checkpoints = list(dict.fromkeys((run, label) for run, label, _ in lines))
    several = len({pool for *_, pool in lines}) > 1
    charts = []
    for probe, title in (('knn', f'{k}-NN accuracy'), ('linear', 'Linear probe (ridge)')):
        series = []
        for (run, label, pool), found in lines.items():
            name = f'{label}, {pool}' if several and pool else label
            colour = run_colour(checkpoints.index((run, label)))
            points = [(row['block'], row[probe]) for row in found if row.get(probe) is not None]
            series += curve(points, name, colour, pool == 'cls', run)
        charts.append(chart('Depth', f'{title} by depth (%)', series, x='block'))
    return charts


def draw_charts(charts: Sequence[dict], path: str | Path) -> None:
    """Draw charts side by side into a PNG, as the report does for the browser."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.5 * len(charts), 4.2), layout='constrained')
    for each, axes in zip(charts, figure.subplots(1, len(charts), squeeze=False)[0], strict=True):
        for line in each['series']:
            kind, i = line['colour'].split('-')
            style = dict(color=LIGHT[kind][int(i)], linestyle='--' if line['dash'] else '-')
            style |= dict(marker='o' if len(line['x']) <= DOTS else '', markersize=3)
            axes.plot(line['x'], line['y'], label=line['name'], **style)
        axes.set(xlabel=each['x'], title=each['title'], yscale='log' if each['log'] else 'linear')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with complete_file(path) as part:
        figure.savefig(part, format='png', dpi=130)
