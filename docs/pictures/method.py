"""The method as a drawing: segments, their decoders, and main + residual = picture."""

import random

from . import svg

WIDTH, HEIGHT = 860, 440
SEGMENTS, BLOCKS = 4, 6
LEFT, STEP, SEGMENT, TOP = 158, 176, 158, 44  # of the segments' boxes
GRID, TILE = 6, 16  # patches a side of the small pictures, and pixels a patch
SIDE = GRID * TILE
DASHED = dict(stroke_width=1.5, stroke_dasharray='4 3')
SKY, SUN, HILL, FIELD = '#a9d3f5', '#f7c948', '#4f8a5b', '#d9a441'


def draw(theme: svg.Theme) -> str:
    """The whole drawing, in a theme's colours."""
    parts = [*masked(theme, 8, TOP - 4), *encoder(theme), *decoders(theme), *pairs(theme)]
    title = 'MIRL: a deep ViT in segments, a decoder each; main + residual = picture'
    return svg.picture(WIDTH, HEIGHT, title, [*parts, *sum_of(theme)])


def is_shallow(segment: int) -> bool:
    return segment < SEGMENTS // 2


def hue(theme: svg.Theme, segment: int) -> str:
    return theme.main if is_shallow(segment) else theme.residual


def middle(segment: int) -> float:
    return LEFT + segment * STEP + SEGMENT / 2


def masked(theme: svg.Theme, x: int, y: int) -> list[str]:
    """The picture with a quarter of its patches left, and the arrow into the encoder."""
    kept = set(random.Random(3).sample(range(GRID * GRID), GRID * GRID // 4))
    hidden = [divmod(n, GRID) for n in range(GRID * GRID) if n not in kept]
    look = dict(fill=theme.fill, stroke=theme.line, stroke_width=0.5)
    cover = [svg.box(x + c * TILE, y + r * TILE, TILE, TILE, **look) for r, c in hidden]
    said = [
        svg.words(x + SIDE / 2, y + SIDE + 22, '1 patch in 4', theme.text),
        svg.words(x + SIDE / 2, y + SIDE + 41, 'is seen', theme.text),
    ]
    return [*scene(x, y), *cover, *said, *arrow(theme, x + SIDE + 8, y + SIDE / 2, LEFT - 8)]


def scene(x: float, y: float, lines: str = '') -> list[str]:
    """Sky, sun, hill and field; with ``lines``, a colour, their outlines alone."""

    def look(fill: str) -> dict:
        return dict(fill='none', stroke=lines, stroke_width=2) if lines else dict(fill=fill)

    hill = f'M{x} {y + 66} Q{x + 38} {y + 22} {x + SIDE} {y + 70}'
    ground = f'M{x} {y + 74} Q{x + 50} {y + 60} {x + SIDE} {y + 80}'
    down = '' if lines else f' V{y + SIDE} H{x} Z'
    return [
        *([] if lines else [svg.box(x, y, SIDE, SIDE, fill=SKY)]),
        svg.element('circle', cx=x + 70, cy=y + 22, r=13, **look(SUN)),
        svg.element('path', d=hill + down, **look(HILL)),
        svg.element('path', d=ground + down, **look(FIELD)),
    ]


def coarse(x: float, y: float) -> list[str]:
    """The scene as a flat colour a patch: what the main component looks like."""
    colours = dict(s=SKY, l='#d2d0a0', h=HILL, m='#7cae9f', g='#94963f', f=FIELD)
    rows = ('ssssss', 'sssmll', 'smmsll', 'mhhhms', 'ghhhhm', 'ffgggg')
    return [
        svg.box(x + c * TILE, y + r * TILE, TILE + 0.4, TILE + 0.4, fill=colours[name])
        for r, row in enumerate(rows)
        for c, name in enumerate(row)
    ]


def arrow(theme: svg.Theme, x: float, y: float, to: float) -> list[str]:
    """An arrow to the right."""
    return [svg.path(f'M{x} {y} H{to} m-7 -5 l7 5 l-7 5', theme.line)]


def encoder(theme: svg.Theme) -> list[str]:
    """Segments of blocks, one behind the other."""
    made = [svg.words(LEFT + 2 * STEP - 9, 22, 'a deep plain ViT, in segments', theme.text, 17)]
    for segment in range(SEGMENTS):
        x, colour = LEFT + segment * STEP, hue(theme, segment)
        look = dict(rx=8, fill=theme.fill, stroke=colour, stroke_width=2)
        made.append(svg.box(x, TOP, SEGMENT, 88, **look))
        for block in range(BLOCKS):
            made.append(svg.box(x + 13 + block * 23, TOP + 12, 17, 40, rx=3, fill=colour))
        name = f'segment {segment}'
        made.append(svg.words(x + SEGMENT / 2, TOP + 75, name, theme.text))
        if segment + 1 < SEGMENTS:
            made += arrow(theme, x + SEGMENT + 2, TOP + 44, x + STEP - 2)
    return made


def decoders(theme: svg.Theme) -> list[str]:
    """A tap and a small decoder behind each segment; dashed, what it sees of shallower ones."""
    rail = f'M{middle(0)} {TOP + 110} H{middle(SEGMENTS - 1) - 22}'
    made = [svg.path(rail, theme.muted, **DASHED)]
    for n, line in enumerate(('Dashed: a decoder', 'also sees the taps', 'before its own.')):
        look = dict(text_anchor='start')
        made.append(svg.words(8, TOP + 168 + 17 * n, line, theme.muted, 13, **look))
    for segment in range(SEGMENTS):
        x, colour, y = middle(segment), hue(theme, segment), TOP + 88
        made.append(svg.path(f'M{x} {y} V{y + 50} m-5 -7 l5 7 l5 -7', colour))
        if segment:
            enters = f'M{x - 22} {y + 22} V{y + 50} m-5 -7 l5 7 l5 -7'
            made.append(svg.path(enters, theme.muted, **DASHED))
        made.append(svg.box(x - 54, y + 53, 108, 46, rx=8, fill=colour))
        made.append(svg.words(x, y + 73, 'decoder', theme.fill))
        paints = 'main' if is_shallow(segment) else 'residual'
        made.append(svg.words(x, y + 91, paints, theme.fill, font_weight='bold'))
    return made


def pairs(theme: svg.Theme) -> list[str]:
    """The shallowest decoder with the deepest, and so on inwards: their sum is compared."""
    made, top = [], TOP + 187
    for g in range(SEGMENTS // 2):
        first, last, y = middle(g), middle(SEGMENTS - 1 - g), top + 52 - 30 * g
        centre = (first + last) / 2
        made.append(svg.path(f'M{first} {top} V{y - 8} q0 8 8 8 H{centre - 11}', theme.main))
        made.append(svg.path(f'M{last} {top} V{y - 8} q0 8 -8 8 H{centre + 11}', theme.residual))
        plus = f'M{centre - 6} {y} h12 m-6 -6 v12'
        look = dict(fill=theme.fill, stroke=theme.text, stroke_width=1.5)
        made += [svg.element('circle', cx=centre, cy=y, r=11, **look), svg.path(plus, theme.text)]
    return made


def sum_of(theme: svg.Theme) -> list[str]:
    """What a pair paints: the main component, the residual, and both together."""
    y, xs = TOP + 266, [middle(n + 0.5) - SIDE / 2 for n in range(3)]
    frame = dict(fill=theme.fill, stroke=theme.line, stroke_width=1)
    made = [
        *coarse(xs[0], y),
        svg.box(xs[1], y, SIDE, SIDE, **frame),
        *scene(xs[1], y, theme.residual),
        *scene(xs[2], y),
    ]
    for sign, n in (('+', 1), ('=', 2)):
        made.append(svg.words(middle(n), y + SIDE / 2 + 10, sign, theme.text, 30))
    names = (('main', theme.main), ('residual', theme.residual), ('picture', theme.text))
    for x, (name, colour) in zip(xs, names, strict=True):
        made.append(svg.words(x + SIDE / 2, y + SIDE + 23, name, colour, 17, font_weight='bold'))
    for n, line in enumerate(
        ('Shallow segments', 'paint the main', 'part, deep ones', 'what is left.')
    ):
        look = dict(text_anchor='start')
        made.append(svg.words(8, y + 26 + 20 * n, line, theme.text, **look))
    return made
