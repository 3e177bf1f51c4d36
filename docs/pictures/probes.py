"""What the drawings of the study's probes share: colours, legend, and the frame of a panel."""

from collections.abc import Iterable

from benchmarks.study.compare import NAMES

from . import svg

TITLES = dict(
    knn20='20-NN, top-1 in %',
    ridge='linear (ridge), top-1 in %',
    segment='CamVid patches, mIoU in %',
)
TICKS = dict(knn20=2, ridge=2, segment=4)
WIDTH = 860
LEFT, STEP, TOP, WIDE, HIGH = 34, 286, 62, 248, 190  # of the panels' axes


def colour(theme: svg.Theme, method: str) -> str:
    return dict(mirl=theme.main, mae=theme.residual).get(method, theme.muted)


def legend(theme: svg.Theme, methods: Iterable[str], said: str) -> list[str]:
    made, x = [], LEFT
    for method in methods:
        made.append(svg.path(f'M{x} 15 h26', colour(theme, method), stroke_width=4))
        look = dict(text_anchor='start')
        made.append(svg.words(x + 33, 20, NAMES[method], theme.text, **look))
        x += 45 + 10 * len(NAMES[method])
    return [*made, svg.words(x + 10, 20, said, theme.muted, 14, text_anchor='start')]


def frame(
    theme: svg.Theme, x: float, key: str, span: tuple[int, int], below: Iterable[tuple[float, str]]
) -> list[str]:
    """A panel's title, grid lines and the numbers of both axes; ``below``: places and words."""
    look = dict(text_anchor='start', font_weight='bold')
    made = [svg.words(x, TOP - 12, TITLES[key], theme.text, 14, **look)]
    tick = TICKS[key]
    for value in range(-(-span[0] // tick) * tick, span[1] + 1, tick):
        y = place(value, span)
        made.append(svg.path(f'M{x} {y:.1f} h{WIDE}', theme.line, stroke_width=0.5))
        made.append(svg.words(x - 6, y + 4.5, str(value), theme.muted, 13, text_anchor='end'))
    return [*made, *(svg.words(at, TOP + HIGH + 20, said, theme.muted, 13) for at, said in below)]


def place(value: float, span: tuple[int, int]) -> float:
    return TOP + HIGH * (span[1] - value) / (span[1] - span[0])
