"""One self-contained HTML page about one or several runs: what goes into it, as plain data."""

import base64
import io
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from mirl_mm import __version__
from mirl_mm.errors import visible
from mirl_mm.files import is_like, write_complete
from mirl_mm.pictures.charts import DARK, LIGHT, charts_of, run_colour

from .runs import NOT_RESULTS, Run, best, read_runs

PANELS, PICTURES, WIDTH = 24, 12, 1100  # of a run; pixels
# An absolute path: in quotes, or alone; no part of an address, a pattern or a tag.
PATH = re.compile(r"""(?<=['"])/[^'"\n]+|(?<![\w./~*}<>])(?!(?<=:)//)/[^\s'",;:)\]]+""")
Cell = list[tuple[str, str]]  # lines of a table's cell, each with a small note


def write_report(work_dirs: str | Path | Sequence[str | Path], out: str | Path) -> Path:
    """Write a page about training, test or ``tools/probe_depth.py`` runs, side by side.

    Resumed runs count as one. The page holds its data, style, script and pictures; it loads nothing
    and names no paths of the machine. UserError or OSError: a work dir is missing or holds no run.
    """
    page = render(read_runs([work_dirs] if isinstance(work_dirs, str | Path) else work_dirs))
    write_complete(out, page.encode())
    return Path(out)


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    panels, pictures, named = [], {}, []
    for run in runs:
        steps, record = list(run.panels), run.record
        picks = [steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(len(steps), PANELS))]
        found = embedded({step: run.panels[step] for step in picks})
        panels.append([dict(step=step, image=image) for step, image in found.items()])
        pictures |= embedded({f'{run.name}: {p.name}': p for p in run.pictures[:PICTURES]})
        images = record.get('batch', 0) * record.get('processes', 1)
        named.append(dict(name=visible(run.name), images_per_iteration=images))
    data = dict(charts=charts_of(runs), panels=panels, runs=named)
    bodies = dict(
        Overview=rows_of([facts(run) for run in runs]),
        Training=None,
        Results=rows_of([results(run) for run in runs]),
        Panels=any(panels),
        Depth=[sentence for run in runs for sentence in run.findings],
        **dict.fromkeys(('Health', 'Throughput')),
        Pictures=list(pictures.items()),
        Settings=[(run.name, without_paths(run.config, run)) for run in runs if run.config],
    )
    drawn = {chart['section'] for chart in data['charts']}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    strict = dict(autoescape=True, undefined=jinja2.StrictUndefined)
    strict['finalize'] = lambda x: visible(x) if type(x) is str else x  # (not what is HTML)
    templates = jinja2.Environment(loader=loader, trim_blocks=True, **strict)
    return templates.get_template('page.html').render(
        title=', '.join(run.name for run in runs),
        warnings=[warning for run in runs for warning in warnings(run)],
        sections=[name for name, body in bodies.items() if body or name in drawn],
        bodies=bodies,
        data=data,
        run_colour=run_colour,
        tones=[(kind, zip(LIGHT[kind], DARK[kind], strict=True)) for kind in LIGHT],
        nonce=secrets.token_hex(),  # of the page's own script, and of no other
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
    if bad := [row['iter'] for row in run.training if not math.isfinite(row.get('loss', 0))]:
        more = f' and {len(bad) - 1} more lines' if len(bad) > 1 else ''
        yield f'{run.name}: the loss is not finite at iteration {bad[0]:,}{more}.'
    if not run.training and run.record.get('kind') == 'train':
        yield f'{run.name} has not logged an iteration yet.'


def rows_of(columns: Sequence[dict[str, Cell]]) -> list[tuple[str, list[Cell]]]:
    """A column a run as rows of a table: a name and the cells; empty ones where it is missing."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, []) for column in columns]) for name in names]


def facts(run: Run) -> dict[str, Cell]:
    """What is known of a run, by name."""
    record, found = run.record, {}
    if record:
        found['model'] = record['model']
        found['encoder'] = record.get('encoder') or '—'
        found['trainable parameters'] = f'{record["trainable_parameters"]:,}'
    if record.get('kind') == 'train':
        found['training images'] = f'{record["images"]:,}'
        batch = '{effective_batch:,} = batch {batch} x processes {processes} x '
        found['effective batch'] = (batch + 'accumulation {accumulation}').format_map(record)
        found['peak learning rate'] = f'{record["learning_rate"]:.4g}'
        found['precision'] = record['precision']
        found['seed'] = str(record.get('seed', '—'))
    if run.training:
        found['progress'] = progress(run)
    resumed = len(run.starts) - 1
    if times := [s for start in run.starts if (s := start.get('seconds')) is not None]:
        several = f' in {len(times)} finished of {resumed + 1} starts' if resumed > 0 else ''
        found['training time'] = f'{timedelta(seconds=sum(times))}{several}'
    if record:
        found['started'] = (run.starts or [record])[0]['started'][:16].replace('T', ' ')
        if resumed > 0:
            found['started'] += f', resumed {"once" if resumed == 1 else f"{resumed} times"}'
        found['hardware'] = f'{record["processes"]} x {record["hardware"]}'
        found['processor'] = record.get('cpu', '—')
        if memory := record.get('gpu_memory'):
            found['GPU memory'] = f'{memory / 2**30:.1f} GiB'
        versions = dict(python=record['python'], **record['versions'])
        found['versions'] = ', '.join(f'{name} {version}' for name, version in versions.items())
        found['code'] = 'not a git checkout'
        if is_like(git := record.get('git'), dict(commit=str, branch=str, changed=list)):
            changed = len(git['changed'])
            extra = f', {changed} file{"s" * (changed > 1)} changed' if changed else ''
            found['code'] = f'{git["commit"][:12]} on {git["branch"]}{extra}'
        found['config'] = without_paths(record.get('config') or '—', run)
        found['command'] = without_paths(record['command'], run)
    found['work dir'] = without_paths(str(run.folder), run)
    return {name: [(value, '')] for name, value in found.items()}


def progress(run: Run) -> str:
    done, total = run.training[-1]['iter'], run.record.get('iterations')
    if not total:
        return f'{done:,} iterations logged'
    if 'finished' in run.record:
        return f'{total:,} iterations, finished'
    return f'{done:,} of {total:,} iterations logged ({done / total:.0%}), not finished'


def results(run: Run) -> dict[str, Cell]:
    """Of every metric the last value and, where it is another, the best; tests by checkpoint."""
    found = {}
    for metric in run.metrics():
        last = [row[metric] for row in run.evaluations if metric in row][-1]
        top, note = best(run.evaluations, metric), ''
        if top and top[metric] != last:
            note = f'best {top[metric]:.4g} at {top["iter"]:,}'
        nothing = metric.startswith('coco/') and last == -1
        found[metric] = [('no objects' if nothing else f'{last:.4g}', note)]
    for row in run.tests:
        checkpoint = Path(row['checkpoint'] or '').name
        for metric in [name for name in row if name not in NOT_RESULTS]:
            found.setdefault(f'test: {metric}', []).append((f'{row[metric]:.4g}', checkpoint))
    return found


def embedded(pictures: Mapping[object, Path]) -> dict[object, str]:
    """Pictures as WebP, not too wide, inside addresses; without those that cannot be read."""
    found = {}
    for name, path in pictures.items():
        try:
            image = Image.open(path).convert('RGB')
        except Exception:  # Pillow raises what it likes
            continue
        image.thumbnail((WIDTH, image.height))
        packed = io.BytesIO()
        image.save(packed, 'WEBP', quality=82)
        content = base64.b64encode(packed.getvalue()).decode()
        found[name] = f'data:image/webp;base64,{content}'
    return found
