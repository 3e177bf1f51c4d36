"""A few SVG elements, and the colours of GitHub's light and dark pages."""

from collections.abc import Iterable
from typing import NamedTuple
from xml.sax.saxutils import escape

FONT = "-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"


class Theme(NamedTuple):
    """Colours of a drawing, for one kind of page."""

    text: str
    muted: str
    line: str
    fill: str
    main: str  # also MIRL's curve
    residual: str  # also MAE's


THEMES = dict(
    light=Theme('#1f2328', '#59636e', '#8c959f', '#f6f8fa', '#0b5cad', '#b8420a'),
    dark=Theme('#f0f6fc', '#9198a1', '#6e7681', '#161b22', '#7db8ff', '#ff9d66'),
)


def picture(width: int, height: int, title: str, elements: Iterable[str]) -> str:
    """A whole file, without a background of its own."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    head += f' width="{width}" height="{height}" font-family="{FONT}" role="img">'
    return '\n'.join([head, f'<title>{escape(title)}</title>', *elements, '</svg>', ''])


def element(name: str, /, inner: str = '', **attributes: object) -> str:
    """One element; ``stroke_width`` stands for stroke-width, and numbers are rounded to 0.1."""
    said = ''.join(f' {key.replace("_", "-")}="{short(v)}"' for key, v in attributes.items())
    return f'<{name}{said}>{inner}</{name}>' if inner else f'<{name}{said}/>'


def short(value: object) -> str:
    return f'{round(value, 1):g}' if isinstance(value, float) else str(value)


def words(x: float, y: float, said: str, fill: str, size: int = 15, **attributes: object) -> str:
    """Text in the middle of x, unless ``text_anchor`` says otherwise."""
    look = dict(text_anchor='middle', font_size=size, fill=fill) | attributes
    return element('text', escape(said), x=x, y=y, **look)


def box(x: float, y: float, width: float, height: float, **attributes: object) -> str:
    return element('rect', x=x, y=y, width=width, height=height, **attributes)


def path(d: str, stroke: str, **attributes: object) -> str:
    return element('path', d=d, stroke=stroke, **(dict(fill='none', stroke_width=2) | attributes))
