"""The report's tables: what was run, and what came out."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mirl_mm.pictures.charts import run_colour

from .runs import NOT_RESULTS, Run, best, numbers


def subtitle(runs: Sequence[Run]) -> str:
    kinds = dict.fromkeys(run.record['model'] for run in runs if run.record.get('model'))
    number = f'{len(runs)} runs side by side' if len(runs) > 1 else 'one run'
    return ', '.join([number, *kinds])


def overview(runs: Sequence[Run]) -> str:
    """The facts of every run, a column each."""
    columns = [facts(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(escape(name), [escape(column.get(name, '—')) for column in columns]) for name in names]
    return table(runs, rows)


def facts(run: Run) -> dict[str, str]:
    """Name to value, for people; what is not known is left out."""
    record, found = run.record, {}
    if record.get('model'):
        found['model'] = record['model']
        found['encoder'] = record.get('encoder') or '—'
        found['trainable parameters'] = f'{record["trainable_parameters"]:,}'
    if record.get('kind') == 'train':
        found['training images'] = f'{record["images"]:,}'
        parts = [record[name] for name in ('batch', 'processes', 'accumulation')]
        found['effective batch'] = '{:,} = batch {} x processes {} x accumulation {}'.format(
            record['effective_batch'], *parts
        )
        found['peak learning rate'] = f'{record["learning_rate"]:.4g}'
        found['precision'] = record['precision']
        found['seed'] = str(record['seed'])
    if run.training:
        found['progress'] = progress(run)
    if times := [r['seconds'] for r in run.records if 'seconds' in r and r['kind'] == 'train']:
        found['training time'] = span(sum(times)) + (
            f' in {len(times)} finished of {len(run.records)} starts'
            if len(run.records) > 1
            else ''
        )
    if record:
        found['started'] = record['started'][:16].replace('T', ' ')
        found['hardware'] = f'{record["processes"]} x {record["hardware"]}'
        found['processor'] = record.get('cpu', '—')
        if memory := record.get('gpu_memory'):
            found['GPU memory'] = f'{memory / 2**30:.1f} GiB'
        versions = dict(python=record['python'], **record['versions'])
        found['versions'] = ', '.join(f'{name} {version}' for name, version in versions.items())
        found['code'] = code(record.get('git'))
        found['config'] = record.get('config') or '—'
        found['command'] = record['command']
    found['work dir'] = str(run.folder)
    return found


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


def warnings(runs: Sequence[Run]) -> str:
    """What a reader should know before believing the curves."""
    notes = []
    for run in runs:
        if run.unreadable:
            notes.append(f'{run.name}: {run.unreadable} unreadable lines of its logs are left out.')
        bad = [r['iter'] for r in run.training if not math.isfinite(numbers(r).get('loss', 0))]
        if bad:
            more = f' and {len(bad) - 1} more lines' if len(bad) > 1 else ''
            notes.append(f'{run.name}: the loss is not finite at iteration {bad[0]:,}{more}.')
        if not run.training and run.record.get('kind') == 'train':
            notes.append(f'{run.name} has not logged an iteration yet.')
    return ''.join(f'<p class="warn">{escape(note)}</p>\n' for note in notes)


# --- results --------------------------------------------------------------------------------------


def results(runs: Sequence[Run]) -> str:
    """Every metric of every run: the last value and, where it is another, the best."""
    rows = []
    for metric in dict.fromkeys(name for run in runs for name in run.metrics()):
        rows.append((escape(metric), [result_cell(run, metric) for run in runs]))
    tested = dict.fromkeys(name for run in runs for row in run.tests for name in numbers(row))
    for metric in tested:
        if metric not in NOT_RESULTS:
            cells = [test_cell(run, metric) for run in runs]
            rows.append((f'test: {escape(metric)}', cells))
    return table(runs, rows) if rows else ''


def result_cell(run: Run, metric: str) -> str:
    found = [row for row in run.evaluations if metric in row]
    if not found:
        return '—'
    last, top = found[-1], best(found, metric)
    if metric.startswith('coco/') and last[metric] == -1:
        return 'no objects'
    text = value_text(last[metric])
    if top and top[metric] != last[metric]:
        text += f' <small>best {value_text(top[metric])} at {top["iter"]:,}</small>'
    return text


def test_cell(run: Run, metric: str) -> str:
    """The value of every test, with the checkpoint that was tested."""
    values = []
    for row in run.tests:
        if metric in row:
            name = Path(row.get('checkpoint') or '').name
            values.append(f'{value_text(row[metric])} <small>{escape(name)}</small>')
    return '<br>'.join(values) or '—'


def value_text(value: float) -> str:
    return f'{value:.4g}' if math.isfinite(value) else 'not finite'


# --- HTML ---------------------------------------------------------------------------------------


def table(runs: Sequence[Run], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of ready HTML, a column a run."""
    heads = ''.join(
        f'<th scope="col"><span class="swatch" style="--c: var(--{run_colour(i)})"></span>'
        f'{escape(run.name)}</th>'
        for i, run in enumerate(runs)
    )
    body = ''.join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'
        for name, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><td></td>{heads}</tr></thead>\n'
        f'<tbody>{body}</tbody></table></div>\n'
    )
