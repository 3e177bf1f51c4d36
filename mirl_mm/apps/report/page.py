"""One self-contained HTML page about one or several runs."""

import base64
import io
import json
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from PIL import Image

import mirl_mm

from .charts import charts_of
from .runs import Run, read_runs
from .tables import overview, results, subtitle, warnings

HERE = Path(__file__).parent
PANELS, PANEL_WIDTH = 24, 1100  # of a run; pixels
PICTURES, PICTURE_WIDTH = 12, 1000
SECTIONS = dict(
    Training='', Results='', Panels='', Depth='', Health='', Throughput='', Pictures='', Settings=''
)


def write_report(work_dirs: str | Path | Sequence[str | Path], out: str | Path) -> Path:
    """Write a page about the runs, side by side: what ran, results, curves, panels, throughput.

    The page holds its data, style, script and pictures; it loads nothing.

    Args:
        work_dirs: of training, test or ``tools/probe_depth.py`` runs, one or several; resumed runs
            count as one.
        out: the HTML file to write.

    Raises:
        FileNotFoundError: a work dir is not there.
        ValueError: a folder holds no run, or none is given.
        OSError: the page cannot be written.
    """
    if isinstance(work_dirs, str | Path):
        work_dirs = [work_dirs]
    page, out = render(read_runs(work_dirs)), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding='utf-8')
    return out


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    charts, panels = charts_of(runs), [panel_series(run) for run in runs]
    bodies = {name: chart_grid(charts, name) for name in SECTIONS}
    bodies = {'Overview': warnings(runs) + overview(runs)} | bodies
    bodies['Results'] = results(runs) + bodies['Results']
    bodies['Panels'] = panel_figures(runs, panels)
    bodies['Pictures'] = pictures(runs)
    bodies['Settings'] = settings(runs)
    bodies = {name: body for name, body in bodies.items() if body}
    names = ', '.join(run.name for run in runs)
    data = dict(
        charts=charts,
        panels=panels,
        runs=[dict(name=run.name, images_per_iteration=images_per_iteration(run)) for run in runs],
    )
    parts = dict(
        version=escape(mirl_mm.__version__),
        title=escape(names),
        subtitle=escape(subtitle(runs)),
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
        links=' '.join(f'<a href="#{name.lower()}">{name}</a>' for name in bodies),
        sections='\n'.join(
            f'<section id="{name.lower()}" aria-labelledby="{name.lower()}-title">'
            f'<h2 id="{name.lower()}-title">{name}</h2>\n{body}\n</section>'
            for name, body in bodies.items()
        ),
        style=(HERE / 'page.css').read_text(encoding='utf-8'),
        script=(HERE / 'page.js').read_text(encoding='utf-8'),
        data=json.dumps(data, allow_nan=False).replace('<', '\\u003c'),
    )
    first, *others = (HERE / 'page.html').read_text(encoding='utf-8').split('{{')
    page = [first]
    for other in others:  # one pass: what is filled in is never looked at again
        name, text = other.split('}}', 1)
        page += [parts[name], text]
    return ''.join(page)


# --- sections -------------------------------------------------------------------------------------


def images_per_iteration(run: Run) -> int | None:
    record = run.record
    return record['batch'] * record['processes'] if record.get('kind') == 'train' else None


def settings(runs: Sequence[Run]) -> str:
    return '\n'.join(
        f'<details><summary>Config of {escape(run.name)}</summary>'
        f'<pre tabindex="0">{escape(run.config)}</pre></details>'
        for run in runs
        if run.config
    )


def chart_grid(charts: Sequence[dict], section: str) -> str:
    figures = [
        f'<figure class="chart" data-chart="{i}"><div class="head"><h3>{escape(chart["title"])}'
        '</h3></div><ul class="legend"></ul></figure>'
        for i, chart in enumerate(charts)
        if chart['section'] == section
    ]
    if not figures:
        return ''
    units = (
        '<p class="tools"><label>x axis: <select class="unit"><option value="iteration">iterations'
        '</option><option value="images">images seen</option></select></label></p>\n'
    )
    return ('' if section == 'Depth' else units) + f'<div class="grid">{"".join(figures)}</div>'


def panel_series(run: Run) -> list[dict]:
    """Some panels of a run, evenly spread, the first and the last among them."""
    steps = list(run.panels)
    shown = min(len(steps), PANELS)
    picks = [steps[round(i * (len(steps) - 1) / max(shown - 1, 1))] for i in range(shown)]
    found = ((step, data_uri(run.panels[step], PANEL_WIDTH)) for step in picks)
    return [dict(step=step, image=image) for step, image in found if image]


def panel_figures(runs: Sequence[Run], panels: Sequence[list[dict]]) -> str:
    figures = []
    for i, (run, series) in enumerate(zip(runs, panels, strict=True)):
        if series:
            name, last = escape(run.name), len(series) - 1
            figures.append(
                f'<figure class="panels" data-panels="{i}"><h3>{name}</h3>'
                f'<div class="wide" tabindex="0"><img alt="" data-alt="Panel of {name}"></div>'
                f'<div class="slide"><input type="range" min="0" max="{last}" value="{last}" '
                f'aria-label="Iteration of the panel of {name}"><output></output></div></figure>'
            )
    if not figures:
        return ''
    intro = (
        '<p class="quiet">The same held-out images under the same masks. Main and residual '
        'pictures are raw; sums have the visible patches pasted in.</p>\n'
    )
    if len(figures) > 1:
        intro += (
            '<p class="tools"><label><input type="checkbox" id="together" checked> move together'
            '</label></p>\n'
        )
    return intro + '\n'.join(figures)


def pictures(runs: Sequence[Run]) -> str:
    figures = []
    for run in runs:
        for path in run.pictures[:PICTURES]:
            if image := data_uri(path, PICTURE_WIDTH):
                title = escape(f'{run.name}: {path.name}')
                figures.append(
                    f'<figure class="pictures"><h3>{title}</h3><img alt="{title}" src="{image}">'
                    '</figure>'
                )
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ''


def data_uri(path: Path, width: int) -> str | None:
    """A picture as WebP, at most so wide, inside an address; None where it cannot be read."""
    try:
        image = Image.open(path).convert('RGB')
    except (OSError, SyntaxError):
        return None
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)))
    packed = io.BytesIO()
    image.save(packed, 'WEBP', quality=82)
    return 'data:image/webp;base64,' + base64.b64encode(packed.getvalue()).decode()
