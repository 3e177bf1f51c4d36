"""One self-contained HTML page about one or several runs: what goes into it, as plain data."""

import base64
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import jinja2
from PIL import Image

from mirl_mm import __version__
from mirl_mm.files import write_complete
from mirl_mm.pictures.charts import DARK, LIGHT, run_colour

from .charts import charts_of
from .runs import NOT_RESULTS, Run, best, numbers, read_runs

PANELS, PANEL_WIDTH = 24, 1100  # of a run; pixels
PICTURES, PICTURE_WIDTH = 12, 1000
# An absolute path: in quotes, or alone; no part of an address, a pattern or a tag.
PATH = re.compile(r"""(?<=['"])/[^'"\n]+|(?<![\w./~*}<>])(?!(?<=:)//)/[^\s'",;:)\]]+""")
Cell = list[tuple[str, str]]  # lines of a table's cell, each with a small note


def write_report(work_dirs: str | Path | Sequence[str | Path], out: str | Path) -> Path:
    """Write a page about the runs, side by side: what ran, results, curves, panels, throughput.

    The page holds its data, style, script and pictures; it loads nothing and names no paths of
    the machine.

    Args:
        work_dirs: of training, test or ``tools/probe_depth.py`` runs, one or several; resumed runs
            count as one.
        out: the HTML file to write.

    Raises:
        UserError, OSError: a work dir is missing or holds no run; the page cannot be written.
    """
    page = render(read_runs([work_dirs] if isinstance(work_dirs, str | Path) else work_dirs))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_complete(out, page.encode())
    return out


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    panels = [panel_series(run) for run in runs]
    named = []
    for run in runs:
        images = run.record.get('batch', 0) * run.record.get('processes', 1) or None
        named.append(dict(name=run.name, images_per_iteration=images))
    data = dict(charts=charts_of(runs), panels=panels, runs=named)
    bodies = dict(
        Overview=rows_of([facts(run) for run in runs]),
        Training=None,
        Results=rows_of([evaluated(run) for run in runs]) + rows_of([tested(run) for run in runs]),
        Panels=sum(map(bool, panels)),
        **dict.fromkeys(('Depth', 'Health', 'Throughput')),
        Pictures=[picture for run in runs for picture in pictures(run)],
        Settings=[(run.name, without_paths(run.config, run)) for run in runs if run.config],
    )
    drawn = {chart['section'] for chart in data['charts']}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    kinds = dict.fromkeys(run.record['model'] for run in runs if run.record.get('model'))
    number = f'{len(runs)} runs side by side' if len(runs) > 1 else 'one run'
    return templates.get_template('page.html').render(
        title=', '.join(run.name for run in runs),
        subtitle=', '.join([number, *kinds]),
        warnings=[warning for run in runs for warning in warnings(run)],
        sections=[name for name, body in bodies.items() if body or name in drawn],
        bodies=bodies,
        data=data,
        runs=runs,
        run_colour=run_colour,
        palettes=(LIGHT, DARK),
        version=__version__,
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
    )


def without_paths(text: str, run: Run) -> str:
    """The text with every absolute path cut.

    What lies below the current folder, or beside the work dir, is named from there on; of others
    the last parts are left.
    """

    def cut(found: re.Match) -> str:
        path = Path(os.path.normpath(found[0]))
        for folder in (Path.cwd(), run.folder.absolute().parent):
            if folder.name and path.is_relative_to(folder):
                return str(path.relative_to(folder))
        last = path.parts[2:] or path.parts[1:]
        return '/'.join(['…', *last[-2:]])

    return PATH.sub(cut, text)


def warnings(run: Run) -> Iterator[str]:
    """What a reader should know before believing the curves."""
    if run.unreadable:
        yield f'{run.name}: {run.unreadable} unreadable lines of its logs are left out.'
    if bad := [r['iter'] for r in run.training if not math.isfinite(numbers(r).get('loss', 0))]:
        more = f' and {len(bad) - 1} more lines' if len(bad) > 1 else ''
        yield f'{run.name}: the loss is not finite at iteration {bad[0]:,}{more}.'
    if not run.training and run.record.get('kind') == 'train':
        yield f'{run.name} has not logged an iteration yet.'


# --- tables ---------------------------------------------------------------------------------------


def rows_of(columns: Sequence[dict[str, Cell]]) -> list[tuple[str, list[Cell]]]:
    """A column a run as rows of a table: a name and the cells; empty ones where it is missing."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, []) for column in columns]) for name in names]


def facts(run: Run) -> dict[str, Cell]:
    """What is known of a run, by name."""
    record, found = run.record, {}
    if record.get('model'):
        found['model'] = record['model']
        found['encoder'] = record.get('encoder') or '—'
        found['trainable parameters'] = f'{record["trainable_parameters"]:,}'
    if record.get('kind') == 'train':
        found['training images'] = f'{record["images"]:,}'
        found['effective batch'] = (
            '{effective_batch:,} = batch {batch} x processes {processes} x '
            'accumulation {accumulation}'.format_map(record)
        )
        found['peak learning rate'] = f'{record["learning_rate"]:.4g}'
        found['precision'] = record['precision']
        found['seed'] = str(record['seed'])
    if run.training:
        found['progress'] = progress(run)
    if times := [r['seconds'] for r in run.records if 'seconds' in r and r['kind'] == 'train']:
        starts = f' in {len(times)} finished of {len(run.records)} starts'
        found['training time'] = span(sum(times)) + starts * (len(run.records) > 1)
    if record:
        found['started'] = record['started'][:16].replace('T', ' ')
        found['hardware'] = f'{record["processes"]} x {record["hardware"]}'
        found['processor'] = record.get('cpu', '—')
        if memory := record.get('gpu_memory'):
            found['GPU memory'] = f'{memory / 2**30:.1f} GiB'
        versions = dict(python=record['python'], **record['versions'])
        found['versions'] = ', '.join(f'{name} {version}' for name, version in versions.items())
        found['code'] = code(record.get('git'))
        found['config'] = without_paths(record.get('config') or '—', run)
        found['command'] = without_paths(record['command'], run)
    found['work dir'] = without_paths(str(run.folder), run)
    return {name: [(value, '')] for name, value in found.items()}


def progress(run: Run) -> str:
    done, total = run.training[-1]['iter'], run.record.get('iterations')
    if not total:
        return f'{done:,} iterations logged'
    if run.record.get('finished'):
        return f'{total:,} iterations, finished'
    return f'{done:,} of {total:,} iterations logged ({done / total:.0%}), not finished'


def code(git: dict | None) -> str:
    if not git:
        return 'not a git checkout'
    changed = len(git['changed'])
    extra = f', {changed} file{"s" * (changed > 1)} changed' if changed else ''
    return f'{git["commit"][:12]} on {git["branch"]}{extra}'


def span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {seconds:02} s'


def evaluated(run: Run) -> dict[str, Cell]:
    """Of every metric the last value and, where it is another, the best."""
    found = {}
    for metric in run.metrics():
        last = [row[metric] for row in run.evaluations if metric in row][-1]
        top, note = best(run.evaluations, metric), ''
        if top and top[metric] != last:
            note = f'best {value_text(top[metric])} at {top["iter"]:,}'
        nothing = metric.startswith('coco/') and last == -1
        found[metric] = [('no objects', '') if nothing else (value_text(last), note)]
    return found


def tested(run: Run) -> dict[str, Cell]:
    """The values of all tests, each with the checkpoint."""
    found: dict[str, Cell] = {}
    for row in run.tests:
        checkpoint = Path(row.get('checkpoint') or '').name
        for metric in [name for name in numbers(row) if name not in NOT_RESULTS]:
            found.setdefault(f'test: {metric}', []).append((value_text(row[metric]), checkpoint))
    return found


def value_text(value: float) -> str:
    return f'{value:.4g}' if math.isfinite(value) else 'not finite'


# --- pictures -------------------------------------------------------------------------------------


def panel_series(run: Run) -> list[dict]:
    """Some panels of a run, evenly spread, the first and the last among them."""
    steps = list(run.panels)
    shown = min(len(steps), PANELS)
    picks = [steps[round(i * (len(steps) - 1) / max(shown - 1, 1))] for i in range(shown)]
    found = [dict(step=step, image=data_uri(run.panels[step], PANEL_WIDTH)) for step in picks]
    return [panel for panel in found if panel['image']]


def pictures(run: Run) -> list[tuple[str, str]]:
    """Other pictures in the work dir: title and address."""
    shown = run.pictures[:PICTURES]
    found = [(f'{run.name}: {path.name}', data_uri(path, PICTURE_WIDTH)) for path in shown]
    return [(title, image) for title, image in found if image]


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
