"""What depth brings, from the study's rows: every seed, their mean and range behind the last block.

Where seeds are missing, the mean is hollow, its lines are dashed, and a line below says how many
there are.
"""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from benchmarks.study import rows
from benchmarks.study.compare import CURVES, by_seed
from benchmarks.study.evidence import missing
from benchmarks.study.grid import DEPTHS, METHODS, SEEDS, UNTRAINED
from benchmarks.study.tables import by_kind
from mirl_mm.errors import UserError

from . import svg
from .probes import HIGH, LEFT, STEP, TICKS, TOP, WIDE, WIDTH, colour, frame, legend, place

HEIGHT, NOTE = TOP + HIGH + 36, 20
EDGE, APART = 44, 17  # of the outer depths to the frame, and from method to method
DASHED = dict(stroke_dasharray='5 4')


def draw(theme: svg.Theme) -> str:
    """The three probes against the number of blocks, side by side."""
    _, groups = by_kind(list(rows.read().values()))
    if not groups:
        raise UserError(f'{rows.ROWS} has no row of the grid by depth to draw')
    methods = (*METHODS, UNTRAINED)
    title = 'What the last block knows, by the number of blocks: MIRL, MAE and untrained'
    parts = legend(theme, methods, 'mean and range; faint: each seed')
    for n, key in enumerate(CURVES):
        x = LEFT + n * STEP
        known = {kind: list(by_seed(group, key).values()) for kind, group in groups.items()}
        span = covering([value for values in known.values() for value in values], TICKS[key])
        below = [(across(x, depth), f'{depth} blocks') for depth in DEPTHS]
        parts += frame(theme, x, key, span, below)
        for method in reversed(methods):
            seeds = {depth: known[depth, method] for depth in DEPTHS if (depth, method) in known}
            shift = (methods.index(method) - 1) * APART
            parts += line(theme, x + shift, seeds, span, colour(theme, method))
    height = HEIGHT
    if lacking := missing(groups):
        height += NOTE
        said = f'Hollow and dashed: too few seeds to say. {lacking}.'
        look = dict(text_anchor='start')
        parts.append(svg.words(LEFT, height - 10, said, theme.muted, 14, **look))
    return svg.picture(WIDTH, height, title, parts)


def covering(values: Sequence[float], tick: int) -> tuple[int, int]:
    """The least whole ticks around all values."""
    low, high = int(min(values) // tick), int(-(-max(values) // tick))
    return low * tick, max(high, low + 1) * tick


def across(x: float, depth: int) -> float:
    return x + EDGE + (WIDE - 2 * EDGE) * DEPTHS.index(depth) / (len(DEPTHS) - 1)


def line(
    theme: svg.Theme,
    x: float,
    seeds: Mapping[int, Sequence[float]],
    span: tuple[int, int],
    hue: str,
) -> list[str]:
    """A method's means, joined from depth to depth, its seeds and their range."""
    at = {d: (across(x, d), place(statistics.mean(each), span)) for d, each in seeds.items()}
    few = {depth for depth, each in seeds.items() if len(each) < len(SEEDS)}
    made = []
    for one, other in pairwise(seeds):
        look = DASHED if few & {one, other} else {}
        (x1, y1), (x2, y2) = at[one], at[other]
        made.append(svg.path(f'M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}', hue, **look))
    for depth, each in seeds.items():
        (cx, cy), (top, bottom) = at[depth], (place(of(each), span) for of in (max, min))
        bar = f'M{cx:.1f} {top:.1f} V{bottom:.1f}'
        caps = ''.join(f' M{cx - 4:.1f} {y:.1f} h8' for y in (top, bottom))
        made.append(svg.path(bar + caps, hue, stroke_width=1.5))
        made += [dot(cx + 6, place(value, span), 2.5, fill=hue, opacity=0.5) for value in each]
        look = dict(fill=theme.fill if depth in few else hue, stroke=hue, stroke_width=2)
        made.append(dot(cx, cy, 4.0, **look))
    return made


def dot(x: float, y: float, r: float, **look: object) -> str:
    return svg.element('circle', cx=float(x), cy=float(y), r=r, **look)
