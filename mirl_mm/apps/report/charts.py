"""Which curves the report draws: titles, series, colours and points, ready for its script."""

import math
import re
from collections.abc import Callable, Sequence

from .runs import NOT_RESULTS, Run, is_number

POINTS = 600  # of a curve; more cannot be seen
RUN_COLOURS, DEPTH_COLOURS = 6, 6
DETAIL = re.compile(r'mAP_(50|75|s|m|l)$|pair_|^raw/|precision|recall|_k(?!10$)\d+$')


def charts_of(runs: Sequence[Run]) -> list[dict]:
    """Charts in the order of the page: ``section``, ``title``, ``x``, ``log`` and ``series``."""
    charts = [*training_charts(runs), *result_charts(runs), *health_charts(runs)]
    charts += [*speed_charts(runs), *depth_charts(runs)]
    return [chart for chart in charts if chart['series']]


def training_charts(runs: Sequence[Run]) -> list[dict]:
    """Loss and held-out error of all runs; pairs and other parts of each."""
    losses: dict[str, list[dict]] = {}  # by kind of model: those of others say nothing beside it
    for i, run in enumerate(runs):
        series = losses.setdefault(run.kind, [])
        series += curve(run, i, 'loss', run.name)
        series += curve(run, i, 'recon/error', f'{run.name}, held out', dash=True)
    charts = []
    for kind, series in losses.items():
        charts.append(chart('Training', f'Loss ({kind})' if len(losses) > 1 else 'Loss', series))
    charts += by_run(runs, 'Training', 'Loss of each pair of segments', pair_name)
    charts += by_run(runs, 'Training', 'Parts of the loss', part_of_loss)
    charts += by_run(runs, 'Training', 'Accuracy on training batches', training_accuracy)
    return [*charts, across(runs, 'Training', 'Learning rate', 'lr')]


def result_charts(runs: Sequence[Run]) -> list[dict]:
    """One chart for every main metric that was evaluated more than once."""
    metrics = dict.fromkeys(name for run in runs for name in run.metrics())
    charts = []
    for name in metrics:
        if name == 'recon/error' or DETAIL.search(name):
            continue  # drawn with the loss, or told by the table
        series = [line for i, run in enumerate(runs) for line in curve(run, i, name, run.name)]
        if any(len(line['x']) > 1 for line in series):
            charts.append(chart('Results', name, series))
    return charts


def health_charts(runs: Sequence[Run]) -> list[dict]:
    """Gradients and updates by segment, and the loss scale."""
    charts = []
    for title, key in (('Gradient norm', 'grad'), ('Relative update', 'update')):
        of_encoder = part_of(rf'{key}/(stem|segment_\d+|backbone)')
        of_the_rest = part_of(rf'{key}/(?!stem|segment_|backbone|all$)(.+)')
        charts += by_run(runs, 'Health', f'{title} by segment of the encoder', of_encoder, log=True)
        charts += by_run(runs, 'Health', f'{title} of decoders and heads', of_the_rest, log=True)
    return [*charts, across(runs, 'Health', 'Loss scale', 'amp_scale', log=True)]


def speed_charts(runs: Sequence[Run]) -> list[dict]:
    waiting = []
    for i, run in enumerate(runs):
        rows = [
            dict(row, share=100 * row['data_time'] / row['time'])
            for row in run.training
            if is_number(row.get('data_time')) and is_number(row.get('time')) and row['time'] > 0
        ]
        waiting += line_of(rows, 'share', run.name, i, run_colour(i))
    return [
        across(runs, 'Throughput', 'Images per second', 'images_per_s'),
        across(runs, 'Throughput', 'Model FLOP utilisation (%)', 'mfu'),
        across(runs, 'Throughput', 'Seconds per iteration', 'time'),
        chart('Throughput', 'Share of time waiting for data (%)', waiting),
        across(runs, 'Throughput', 'GPU memory (MB)', 'memory'),
    ]


def depth_charts(runs: Sequence[Run]) -> list[dict]:
    """Probes at every depth: a chart a probe, a curve for each checkpoint and kind of feature."""
    charts = []
    for probe, title in (
        ('knn', 'k-NN accuracy by depth (%)'),
        ('linear', 'Linear probe by depth (%)'),
    ):
        series = []
        for i, run in enumerate(runs):
            kinds = dict.fromkeys((row['label'], row.get('pool', '')) for row in run.probes)
            for label, pool in kinds:
                rows = [
                    dict(row, iter=row['block'])
                    for row in run.probes
                    if (row['label'], row.get('pool', '')) == (label, pool)
                ]
                name = ', '.join(part for part in (label, pool) if part)
                colour = run_colour(len(series))
                series += line_of(rows, probe, name, i, colour, dash=pool == 'cls')
        charts.append(chart('Depth', title, series, x='block'))
    return charts


# --- pieces ---------------------------------------------------------------------------------------


def chart(section: str, title: str, series: list[dict], x: str = 'iteration', log=False) -> dict:
    return dict(section=section, title=title, x=x, log=log, series=series)


def across(runs: Sequence[Run], section: str, title: str, key: str, log: bool = False) -> dict:
    """One key of the training rows, all runs in one chart."""
    series = [line for i, run in enumerate(runs) for line in curve(run, i, key, run.name)]
    return chart(section, title, series, log=log)


def by_run(
    runs: Sequence[Run],
    section: str,
    title: str,
    name_of: Callable[[str], str | None],
    log: bool = False,
) -> list[dict]:
    """A chart for every run, with a curve for each key that gets a name."""
    charts = []
    for i, run in enumerate(runs):
        keys = dict.fromkeys(key for row in run.training for key in row)
        names = {key: name for key in keys if (name := name_of(key))}
        series = []
        for n, (key, name) in enumerate(sorted(names.items(), key=lambda item: natural(item[0]))):
            shade = round(n * (DEPTH_COLOURS - 1) / max(len(names) - 1, 1))
            series += line_of(run.training, key, name, i, f'var(--depth-{shade})')
        whose = f'{title} ({run.name})' if len(runs) > 1 else title
        charts.append(chart(section, whose, series, log=log))
    return charts


def curve(run: Run, i: int, key: str, name: str, dash: bool = False) -> list[dict]:
    """The curve of a key in training or evaluation rows, as a list; empty without it."""
    rows = run.training if any(key in row for row in run.training) else run.evaluations
    return line_of(rows, key, name, i, run_colour(i), dash)


def line_of(
    rows: Sequence[dict], key: str, name: str, i: int, colour: str, dash: bool = False
) -> list[dict]:
    found = [(row['iter'], row[key]) for row in rows if is_number(row.get(key))]
    if not found:
        return []
    points = thinned(found, POINTS)
    x, y = [p[0] for p in points], [rounded(p[1]) for p in points]
    return [dict(name=name, run=i, colour=colour, dash=dash, x=x, y=y)]


def thinned(points: list[tuple], most: int) -> list[tuple]:
    """At most so many points, or few more: of each stretch the lowest, the highest and the bad."""
    if len(points) <= most:
        return points
    size, kept = math.ceil(2 * len(points) / most), []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        finite = [p for p in stretch if math.isfinite(p[1])]
        wanted = [min(finite, key=second), max(finite, key=second)] if finite else []
        bad = next((p for p in stretch if not math.isfinite(p[1])), None)
        wanted += [bad] if bad is not None else []
        kept += sorted(dict.fromkeys(wanted), key=lambda p: p[0])
    return [*kept, points[-1]] if kept[-1] != points[-1] else kept


def second(point: tuple) -> float:
    return point[1]


def rounded(value: float) -> float | None:
    """Six digits are enough to look at; JSON knows no number that is not finite."""
    return float(f'{value:.6g}') if math.isfinite(value) else None


def run_colour(i: int) -> str:
    return f'var(--run-{i % RUN_COLOURS})'


def natural(key: str) -> list:
    """Sorts decoder_10 behind decoder_9, and the stem before the segments."""
    parts = re.split(r'(\d+)', key.replace('/stem', '/!stem'))
    return [int(part) if part.isdigit() else part for part in parts]


# --- names ----------------------------------------------------------------------------------------


def pair_name(key: str) -> str | None:
    """``pair_0_5`` -> ``segments 1 + 6``."""
    found = re.fullmatch(r'pair_(\d+)_(\d+)', key)
    return f'segments {int(found[1]) + 1} + {int(found[2]) + 1}' if found else None


def part_of_loss(key: str) -> str | None:
    return key if 'loss' in key and key != 'loss' else None


def training_accuracy(key: str) -> str | None:
    return key if re.search(r'(^|\.)acc(_|$)', key) and key not in NOT_RESULTS else None


def part_of(pattern: str) -> Callable[[str], str | None]:
    """Names by the pattern's group; segments and decoders are counted from 1 for people."""

    def name_of(key: str) -> str | None:
        found = re.fullmatch(pattern, key)
        if not found:
            return None
        return re.sub(r'^(segment|decoder)_(\d+)$', lambda m: f'{m[1]} {int(m[2]) + 1}', found[1])

    return name_of
