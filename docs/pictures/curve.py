"""What each block of a small ViT knows, from the study's rows: means and range over its seeds."""

import statistics
from collections.abc import Sequence

from benchmarks.study import rows
from benchmarks.study.compare import NAMES
from benchmarks.study.grid import EPOCHS, METHODS, SEEDS, UNTRAINED
from benchmarks.study.tables import of
from mirl_mm.errors import UserError

from . import svg
from .probes import HIGH, LEFT, STEP, TOP, WIDE, WIDTH, colour, frame, legend, place

DEPTH = 24  # the deepest of which all seeds are run
SPANS = dict(knn20=(4, 16), ridge=(8, 18), segment=(20, 32))
HEIGHT = TOP + HIGH + 36


def draw(theme: svg.Theme) -> str:
    """The three probes behind every block, side by side."""
    found = list(rows.read().values())
    methods = (*METHODS, UNTRAINED)
    by_method = {method: of(found, DEPTH, method, EPOCHS[0]) for method in methods}
    for method, group in by_method.items():
        if len(group) < len(SEEDS):
            wanted = f'{len(SEEDS)} seeds of {NAMES[method]} with {DEPTH} blocks'
            raise UserError(f'{rows.ROWS} has {len(group)} rows; the curve takes {wanted}')
    title = f'What each of {DEPTH} blocks knows after pre-training: MIRL, MAE and untrained'
    parts = [*legend(theme, by_method, f'mean and range of {len(SEEDS)} seeds')]
    for n, (key, span) in enumerate(SPANS.items()):
        x = LEFT + n * STEP
        numbers = [(across(x, block), str(block)) for block in range(6, DEPTH + 1, 6)]
        parts += frame(theme, x, key, span, [(across(x, 1), 'block 1'), *numbers])
        for method, group in by_method.items():
            curves = [row[key] for row in group]
            parts += band(x, curves, span, colour(theme, method))
    return svg.picture(WIDTH, HEIGHT, title, parts)


def across(x: float, block: int) -> float:
    return x + 12 + (WIDE - 24) * (block - 1) / (DEPTH - 1)


def band(x: float, curves: Sequence[Sequence[float]], span: tuple[int, int], hue: str) -> list[str]:
    """The mean of curves [seeds][blocks], over the range between least and most."""

    def points(of_seeds) -> list[str]:
        values = map(of_seeds, zip(*curves, strict=True))
        return [f'{across(x, b):.1f} {place(v, span):.1f}' for b, v in enumerate(values, 1)]

    around = 'M' + ' L'.join([*points(max), *reversed(points(min))]) + ' Z'
    shade = svg.element('path', d=around, fill=hue, opacity=0.2)
    return [shade, svg.path('M' + ' L'.join(points(statistics.mean)), hue)]
