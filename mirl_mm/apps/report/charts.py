"""Which charts the report draws, and what stands in them."""

import re
from collections.abc import Sequence
from itertools import chain

from mirl_mm.pictures.charts import LIGHT, chart, curve, depth_charts, run_colour

from .runs import Run

# Metrics that are drawn with the loss, or told by the table alone.
DETAIL = re.compile(r'^recon/|mAP_(50|75|s|m|l)$|^raw/|precision|recall|_k(?!10$)\d+$')
ENCODER = 'stem|segment_\\d+|backbone'
# A chart for every run: section, title, the scalars that are its curves, log. The group names them.
BY_RUN = (
    ('Training', 'Loss of each pair of segments', r'(pair_\d+_\d+)', False),
    ('Training', 'Parts of the loss', '(?!loss$)(.*loss.*)', False),
    ('Training', 'Accuracy on training batches', r'((?:.*\.)?acc(?:_.*)?)', False),
    ('Health', 'Gradient norm by segment of the encoder', f'grad/({ENCODER})', True),
    ('Health', 'Gradient norm of decoders and heads', f'grad/(?!{ENCODER}|all$)(.+)', True),
    ('Health', 'Relative update by segment of the encoder', f'update/({ENCODER})', True),
    ('Health', 'Relative update of decoders and heads', f'update/(?!{ENCODER}|all$)(.+)', True),
)
# A chart for all runs: section, title, scalar, log.
ACROSS = (
    ('Training', 'Learning rate', 'lr', False),
    ('Health', 'Loss scale', 'amp_scale', True),
    ('Throughput', 'Images per second', 'images_per_s', False),
    ('Throughput', 'Model FLOP utilisation (%)', 'mfu', False),
    ('Throughput', 'Seconds per iteration', 'time', False),
    ('Throughput', 'Share of time waiting for data (%)', 'waiting', False),
    ('Throughput', 'GPU memory (MB)', 'memory', False),
)


def charts_of(runs: Sequence[Run]) -> list[dict]:
    """Charts, see :mod:`mirl_mm.pictures.charts`; a section's in the order of the page."""
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


def across(runs: Sequence[Run], key: str) -> list[dict]:
    lines = (line(run, i, key, run.name, run_colour(i)) for i, run in enumerate(runs))
    return list(chain(*lines))


def line(run: Run, i: int, key: str, name: str, colour: str, dash: bool = False) -> list[dict]:
    """The curve of a scalar in training or evaluation rows, as a list; empty without it."""
    rows = run.training if any(key in row for row in run.training) else run.evaluations
    points = [(row['iter'], row[key]) for row in rows if key in row]
    return curve(points, name, colour, dash, i)


def parts(run: Run, i: int, pattern: str) -> list[dict]:
    """Curves of all scalars that match, from shallow to deep."""
    found = {key: re.fullmatch(pattern, key) for row in run.training for key in row}
    keys, last = sorted((key for key in found if found[key]), key=natural), len(LIGHT['depth']) - 1
    series = []
    for n, key in enumerate(keys):
        shade = round(n * last / max(len(keys) - 1, 1))
        series += line(run, i, key, counted_from_one(found[key][1]), f'depth-{shade}')
    return series


def natural(key: str) -> list:
    """Sorts decoder_10 behind decoder_9, and the stem before the segments."""
    pieces = re.split(r'(\d+)', key.replace('/stem', '/!stem'))
    return [int(piece) if piece.isdigit() else piece for piece in pieces]


def counted_from_one(name: str) -> str:
    """For people: ``pair_0_5`` is segments 1 + 6, ``segment_0`` segment 1."""
    if pair := re.fullmatch(r'pair_(\d+)_(\d+)', name):
        return f'segments {int(pair[1]) + 1} + {int(pair[2]) + 1}'
    return re.sub(r'^(segment|decoder)_(\d+)$', lambda m: f'{m[1]} {int(m[2]) + 1}', name)
