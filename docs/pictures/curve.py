"""What each block of a small ViT knows, from the study's rows: means and range over its seeds."""

import statistics
from collections.abc import Sequence

from benchmarks.study import rows
from benchmarks.study.compare import NAMES
from benchmarks.study.grid import EPOCHS, METHODS, SEEDS, UNTRAINED
from benchmarks.study.tables import of
from mirl_mm.errors import UserError

from . import svg

DEPTH = 24  # the deepest of which all seeds are run
PANELS = dict(
    knn20=('20-NN, top-1 in %', (4, 16), 2),
    ridge=('linear (ridge), top-1 in %', (8, 18), 2),
    segment=('CamVid patches, mIoU in %', (20, 32), 4),
)
WIDTH, HEIGHT = 860, 288
LEFT, STEP, TOP, WIDE, HIGH = 34, 286, 62, 248, 190  # of the panels' axes


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
    parts = [*legend(theme, by_method)]
    for n, (key, (name, span, tick)) in enumerate(PANELS.items()):
        x = LEFT + n * STEP
        parts += axes(theme, x, name, span, tick)
        for method, group in by_method.items():
            curves = [row[key] for row in group]
            parts += band(x, curves, span, colour(theme, method))
    return svg.picture(WIDTH, HEIGHT, title, parts)


def colour(theme: svg.Theme, method: str) -> str:
    return dict(mirl=theme.main, mae=theme.residual).get(method, theme.muted)


def legend(theme: svg.Theme, by_method: dict[str, list[dict]]) -> list[str]:
    made, x = [], LEFT
    for method in by_method:
        made.append(svg.path(f'M{x} 15 h26', colour(theme, method), stroke_width=4))
        look = dict(text_anchor='start')
        made.append(svg.words(x + 33, 20, NAMES[method], theme.text, **look))
        x += 45 + 10 * len(NAMES[method])
    said = f'mean and range of {len(SEEDS)} seeds'
    return [*made, svg.words(x + 10, 20, said, theme.muted, 14, text_anchor='start')]


def axes(theme: svg.Theme, x: float, name: str, span: tuple[int, int], tick: int) -> list[str]:
    """A panel's frame: title, grid lines, the numbers of both axes."""
    made = [svg.words(x, TOP - 12, name, theme.text, 14, text_anchor='start', font_weight='bold')]
    first = -(-span[0] // tick) * tick
    for value in range(first, span[1] + 1, tick):
        y = place(value, span)
        made.append(svg.path(f'M{x} {y:.1f} h{WIDE}', theme.line, stroke_width=0.5))
        made.append(svg.words(x - 6, y + 4.5, str(value), theme.muted, 13, text_anchor='end'))
    for block in (1, *range(6, DEPTH + 1, 6)):
        said = f'block {block}' if block == 1 else str(block)
        made.append(svg.words(across(x, block), TOP + HIGH + 20, said, theme.muted, 13))
    return made


def place(value: float, span: tuple[int, int]) -> float:
    return TOP + HIGH * (span[1] - value) / (span[1] - span[0])


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
