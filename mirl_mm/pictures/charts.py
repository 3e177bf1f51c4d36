"""Which charts tell of runs, as plain data, and the one function that draws charts into a file.

A chart is a dict of ``section``, ``title``, ``x`` (what it goes over), ``log`` (the scale) and
``series``: curves of ``name``, ``colour`` (of :data:`LIGHT`, such as ``run-0``), ``dash``, ``run``
(number of it) and the points ``x`` and ``y``, where y is None if it was not finite, and with
``spread`` so much above and below.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image

from mirl_mm.errors import visible
from mirl_mm.files import complete_file

POINTS, DOTS = 600, 40  # of a curve; more cannot be seen, or told apart
TICKS = 12  # at most, of blocks
COLUMNS = 3  # charts beside each other
LIGHT = dict(
    run=('#0b5cad', '#b8420a', '#0f766e', '#7a3aa8', '#7d6100', '#b0266f'),
    depth=('#0b5cad', '#4a4fb8', '#7d3fa8', '#ab3486', '#c73a55', '#b8590a'),
)
DARK = dict(
    run=('#7db8ff', '#ff9d66', '#4fd1c0', '#c9a2ff', '#e3c34f', '#ff8fc4'),
    depth=('#7db8ff', '#a3a8ff', '#c79bff', '#f08fd0', '#ff8f9c', '#ffb066'),
)
# Metrics that are drawn with the loss, or told by the table alone.
DETAIL = re.compile(r'^recon/|mAP_(50|75|s|m|l)$|^raw/|precision|recall|_k(?!10$)\d+$')
ENCODER = 'stem|segment_\\d+|backbone'
# A chart for every run: section, title, the scalars that are its curves, log. The group names them.
BY_RUN = (
    ('Training', 'Loss of each pair of segments', r'(pair_\d+(?:_\d+)?)', False),
    ('Training', 'Parts of the loss', '(?!loss$)(.*loss.*)', False),
    ('Training', 'Accuracy on training batches', r'((?:.*\.)?acc(?:_.*)?)', False),
    ('Health', 'Gradient norm by segment of the encoder', f'grad/({ENCODER})', True),
    ('Health', 'Gradient norm of decoders and heads', f'grad/(?!{ENCODER}|all$)(.+)', True),
    ('Health', 'Relative update by segment of the encoder', f'update/({ENCODER})', True),
    ('Health', 'Relative update of decoders and heads', f'update/(?!{ENCODER}|all$)(.+)', True),
)
# A chart for all runs: section, title, scalar, log.
ACROSS = (
    ('Training', 'Largest learning rate', 'lr', False),
    ('Health', 'Loss scale', 'amp_scale', True),
    ('Throughput', 'Images per second', 'images_per_s', False),
    ('Throughput', 'Model FLOP utilisation (%)', 'mfu', False),
    ('Throughput', 'Seconds per iteration', 'time', False),
    ('Throughput', 'Share of time waiting for data (%)', 'waiting', False),
    ('Throughput', 'GPU memory (MB)', 'memory', False),
)
MEASURES = dict(  # of a block
    knn='{k}-NN accuracy (%)',
    linear='accuracy of ridge (%)',
    miou='mIoU (%)',
    paint='painting error',
    rank='effective rank',
    cosine='cosine between patches',
    cka='CKA with the probed block before',
)


def chart(section: str, title: str, series: list[dict], x='iteration', log=False) -> dict:
    return dict(section=section, title=visible(title), x=x, log=log, series=series)


def curve(points: Sequence[tuple], name: str, colour: str, dash=False, run: int = 0) -> list[dict]:
    """The curve through points (x, y) or (x, y, spread), as a list; empty without any."""
    if not points:
        return []
    x, y, *spread = zip(*thinned(points, POINTS), strict=True)
    y = [float(f'{v:.6g}') if math.isfinite(v) else None for v in y]  # enough to look at
    more = dict(spread=list(*spread)) if spread else {}
    return [dict(name=visible(name), run=run, colour=colour, dash=dash, x=list(x), y=y, **more)]


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


def charts_of(runs: Sequence) -> list[dict]:
    """The charts of runs as :mod:`mirl_mm.apps.report.runs` reads them, in the page's order."""
    models = [run.record.get('model') for run in runs]
    several, charts = len({*models}) > 1, []
    for model in dict.fromkeys(models):  # the loss of one says nothing beside that of another
        series = []
        for i, run in enumerate(runs):
            if models[i] == model:
                series += line(run, i, 'loss', run.name, run_colour(i))
                name = f'{run.name}, held out'
                series += line(run, i, 'recon/error', name, run_colour(i), dash=True)
        charts.append(chart('Training', f'Loss ({model})' if several else 'Loss', series))
    for section, title, pattern, log in BY_RUN:
        for i, run in enumerate(runs):
            whose = f'{title} ({run.name})' if len(runs) > 1 else title
            charts.append(chart(section, whose, parts(run, i, pattern), log=log))
    for section, title, key, log in ACROSS:
        charts.append(chart(section, title, across(runs, key), log=log))
    for metric in dict.fromkeys(name for run in runs for name in run.metrics()):
        series = across(runs, metric)
        if not DETAIL.search(metric) and any(len(each['x']) > 1 for each in series):
            charts.append(chart('Results', metric, series))
    charts += depth_charts([dict(row, run=i) for i, run in enumerate(runs) for row in run.probes])
    return [each for each in charts if each['series']]


def across(runs: Sequence, key: str) -> list[dict]:
    return [c for i, run in enumerate(runs) for c in line(run, i, key, run.name, run_colour(i))]


def line(run, i: int, key: str, name: str, colour: str, dash=False) -> list[dict]:
    """The curve of a scalar in training or evaluation rows, as a list; empty without it."""
    rows = run.training if any(key in row for row in run.training) else run.evaluations
    points = [(row['iter'], row[key]) for row in rows if key in row]
    return curve(points, name, colour, dash, i)


def parts(run, i: int, pattern: str) -> list[dict]:
    """Curves of all scalars that match, from shallow to deep."""
    found = {key: re.fullmatch(pattern, key) for row in run.training for key in row}
    keys, last = sorted((key for key in found if found[key]), key=natural), len(LIGHT['depth']) - 1
    series = []
    for n, key in enumerate(keys):
        shade = round(n * last / max(len(keys) - 1, 1))
        series += line(run, i, key, found[key][1], f'depth-{shade}')
    return series


def natural(key: str) -> list:
    """Sorts decoder_10 behind decoder_9, and the stem before the segments."""
    pieces = re.split(r'(\d+)', key.replace('/stem', '/!stem'))
    return [piece.zfill(9) for piece in pieces]


def depth_charts(rows: Sequence[dict], k: int | str = 'k') -> list[dict]:
    """Probes by depth: a chart a measure, a colour a checkpoint, dashes for the cls token.

    ``rows`` have ``label``, ``block``, some of :data:`MEASURES` and what belongs to them, such as
    ``knn_error``, ``pool`` and ``shots``, and ``run`` if some differ.
    """
    lines = defaultdict(list)
    for row in rows:
        at = (row.get('run', 0), row['label'], row.get('pool', ''), row.get('shots'))
        lines[at].append(row)
    checkpoints = list(dict.fromkeys((run, label) for run, label, *_ in lines))
    several, charts = len({pool for *_, pool, _ in lines if pool}) > 1, []
    for shots, measure in product(dict.fromkeys(shots for *_, shots in lines), MEASURES):
        series = []
        for (run, label, pool, few), found in lines.items():
            name = f'{label}, {pool}' if several and pool else label
            colour = run_colour(checkpoints.index((run, label)))
            points = [
                (row['block'], row[measure], row.get(f'{measure}_error') or 0)
                for row in found
                if few == shots and row.get(measure) is not None
            ]
            series += curve(points, name, colour, pool == 'cls', run)
        title = MEASURES[measure].format(k=k) + (f', {shots}-shot' if shots else '')
        charts += [chart('Depth', f'{title}, by depth', series, x='block')] if series else []
    return charts


def draw_charts(charts: Sequence[dict], path: str | Path) -> None:
    """Draw charts into a PNG, three in a row, as the report does for the browser."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns, high = min(len(charts), COLUMNS), math.ceil(len(charts) / COLUMNS)
    figure = Figure(figsize=(5.5 * columns, 4.2 * high), dpi=130, layout='constrained')
    for place, each in enumerate(charts, 1):
        axes = figure.add_subplot(high, columns, place)
        for line in each['series']:
            kind, i = line['colour'].split('-')
            style = dict(color=LIGHT[kind][int(i)], linestyle='--' if line['dash'] else '-')
            style |= dict(marker='o' if len(line['x']) <= DOTS else '', markersize=3)
            name = line['name'][:80].replace('$', r'\$')  # (else it would be a formula)
            axes.plot(line['x'], line['y'], label=name, **style)
            if spread := line.get('spread'):
                axes.errorbar(line['x'], line['y'], spread, ecolor=style['color'], fmt='none')
        axes.set(xlabel=each['x'], title=each['title'], yscale='log' if each['log'] else 'linear')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if each['x'] == 'block':
            blocks = sorted({x for line in each['series'] for x in line['x']})
            axes.set_xticks(blocks[:: -math.ceil(len(blocks) / TICKS)])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    pixels, size = FigureCanvasAgg(figure).print_to_buffer()
    with complete_file(path) as part:
        Image.frombytes('RGBA', size, pixels).convert('RGB').save(part, 'PNG')
