"""Tables of what was measured on GPUs, and the rows of the project's status about them.

Every folder ``results/gpu*`` is of one device.
"""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.markdown import inverse, markdown, ratio
from benchmarks.study.compare import sentences
from benchmarks.study.rows import check_version
from benchmarks.study.tables import depths

COMMAND = '`python -m benchmarks.gpu --out benchmarks/results/gpu`'
NAMES = dict(mirl='ours', mae='MAE')
ALLOWED = 10  # times the CPU's tolerances, on a GPU


def tables(results: Path) -> dict[str, str]:
    """Every table in Markdown, by name."""
    return {f'gpu_{stage}': table(stage, make, results) for stage, make in TABLES.items()}


def table(stage: str, make: Callable[[list[dict]], list[str]], results: Path) -> str:
    """The tables of a stage, for every device that was measured."""
    parts = []
    for file in sorted(results.glob(f'gpu*/{stage}.json')):
        result = json.loads(file.read_text())
        if result['rows']:
            where = f'{file.parent.name}/{file.name}'
            parts += [*make(result['rows']), f'From [{where}](results/{where}), {stamp(result)}.']
        if missing := result['failed'].keys() | result['left_out'].keys():
            why = [f'{name} ({reason(result, name)})' for name in sorted(missing)]
            parts.append(f'Without a result: {"; ".join(why)}.')
    return '\n\n'.join(parts) or f'**not run**: {COMMAND}'


def stamp(result: dict) -> str:
    """Dates, hardware, driver, versions."""
    dates = sorted({row['date'] for row in result['rows']})
    words = [
        ' to '.join(dict.fromkeys([dates[0], dates[-1]])),
        result['hardware'],
        *([f'driver {result["driver"]}'] if 'driver' in result else []),
        *(f'{name} {result["versions"][name]}' for name in ('torch', 'mmpretrain')),
    ]
    return ', '.join(words)


def reason(result: dict, name: str) -> str:
    if name in result['failed']:
        return 'failed: ' + result['failed'][name]['error'].strip().splitlines()[-1][:120]
    return result['left_out'][name][:120]


def correct(rows: list[dict]) -> list[str]:
    """What every part found; gradients by segment; lines that make the host wait."""
    made = [markdown(['part', 'result'], [[row['part'], row['says']] for row in rows])]
    for row in rows:
        if 'gradients' in row:
            found = row['gradients'].items()
            made.append(
                'Gradients in bfloat16 against float32 at the same weights, medians:\n\n'
                + markdown(
                    ['part of the model', 'distance', 'cosine'],
                    [[n, f'{each["relative"]:.1e}', f'{each["cosine"]:.5f}'] for n, each in found],
                )
            )
        if row.get('waits_by_line'):
            lines = [[f'`{n}`', c / row['iterations']] for n, c in row['waits_by_line'].items()]
            made.append(markdown(['line that waits', 'times an iteration'], lines))
    return made


def pretrain(rows: list[dict]) -> list[str]:
    """Steps with their update, what an idea undone costs, and where the time goes."""
    steps = [row for row in rows if 'images_per_s' in row]
    head = ['step', 'model', 'images/s', 'ours / it', 'of a matrix product', 'peak, GB',
            'estimated', 'kernels']  # fmt: skip
    lines = [
        [
            row['part'],
            NAMES.get(name, name),
            f'{rate:,.0f}',
            ratio(row['with_update']['ratios'].get(name)),
            f'{row["of_matrix_product"][name]:.0%}',
            f'{row["peak_gb"][name]:.1f}',
            row['estimated_gb'].get(name, '-'),
            f'{row["kernels"][name]:,}',
        ]
        for row in steps
        for name, rate in row['images_per_s'].items()
    ]
    made = [markdown(head, lines)] if lines else []
    ideas = [
        [f'{row["arch"]}, batch {row["batch"]}', name, inverse(found)]
        for row in rows
        if row['part'].endswith('ideas')
        for name, found in row['step']['ratios'].items()
    ]
    made += [markdown(['step', 'undone', 'of ours'], ideas)] if ideas else []
    profiles = [
        [row['part'], NAMES.get(name, name), dearest(found['operations'])]
        for row in steps
        for name, found in row['profile'].items()
    ]
    head = ['step', 'model', 'share of the time in what each operation launched']
    return made + ([markdown(head, profiles)] if profiles else [])


def dearest(operations: list[dict]) -> str:
    return ', '.join(f'{each["name"]} {each["share"]:.0%}' for each in operations)


def dense(rows: list[dict]) -> list[str]:
    """Encoders by kind of attention; whole models."""
    encoders = [
        [
            f'{row["part"]}, batch {row["batch"]}',
            name,
            f'{rate:,.1f}',
            ratio(row['step']['ratios'].get(name)),
            f'{row["peak_gb"][name]:.1f}',
        ]
        for row in rows
        if 'backbone_share' not in row
        for name, rate in row['images_per_s'].items()
    ]
    whole = [
        [
            f'{row["part"]}, {row["pixels"]} px, batch {row["batch"]}',
            f'{row["images_per_s"]:,.1f}',
            ratio(row['backbone_share']),
            f'{row["peak_gb"]:.1f}',
        ]
        for row in rows
        if 'backbone_share' in row
    ]
    head = ['encoder', 'attention', 'images/s', 'ours / it', 'peak, GB']
    made = [markdown(head, encoders)] if encoders else []
    head = ['model', 'images/s', 'share of the backbone', 'peak, GB']
    return made + ([markdown(head, whole)] if whole else [])


def end_to_end(rows: list[dict]) -> list[str]:
    """Runs of tools/train.py."""
    head = ['run', 'workers', 'images/s', 'time spent waiting for data', 'start to first step, s']
    lines = [
        [f'{row["arch"]}, batch {row["batch"]}', row['workers'], f'{row["images_per_s"]:,.0f}',
         f'{row["waiting"]:.1%}', row['start_up_s']]
        for row in rows
    ]  # fmt: skip
    return [markdown(head, lines)]


def depth(rows: list[dict]) -> list[str]:
    """The depth study: a line for every method and depth, and what is beyond the spread."""
    runs = [row for row in rows if 'method' in row]
    for run in runs:
        check_version(run, f'run {run["run"]} of the depth stage')
    kinds = sorted({(run['depth'], run['method']) for run in runs})
    groups = {
        kind: [run for run in runs if (run['depth'], run['method']) == kind] for kind in kinds
    }
    return [depths(groups), *sentences(groups)] if groups else []


TABLES = dict(correct=correct, pretrain=pretrain, dense=dense, end_to_end=end_to_end, depth=depth)


def status(results: Path) -> dict[str, str]:
    """The project's rows about GPUs, as the table ``gpu_status``."""
    rows = []
    for folder in sorted(results.glob('gpu*')):
        found, device = {}, ''
        for stage in TABLES:
            if (file := folder / f'{stage}.json').is_file():
                result = json.loads(file.read_text())
                device = result['hardware']
                found |= {(stage, row['part']): row for row in result['rows']}
        rows += measured(found, device)
    if not any(row[0].startswith('GPU, bf16') for row in rows):
        rows.insert(0, ['GPUs, bf16, NCCL', f'**not run**: {COMMAND}'])
    if not any(row[0].startswith('Batch') for row in rows):
        rows.append(['Batch per GPU in the configs', 'estimates for 80 GB, **not measured**'])
    rows.append(['Several GPUs and nodes', '**not run**'])
    return dict(gpu_status=markdown(['on GPUs', 'state'], rows))


def measured(found: dict[tuple[str, str], dict], device: str) -> list[list[str]]:
    """Rows of one device; those alone for which there are results."""
    rows = []
    checks = [row for (stage, _), row in found.items() if stage == 'correct']
    if checks:
        said = [row['says'] for row in checks if row['part'] in ('bf16', 'resume')]
        if golden := [row['of_tolerance'] for row in checks if 'of_tolerance' in row]:
            words = f'golden figures {max(golden):.1f} times as far off as a CPU may be'
            said.insert(0, f'{words} ({ALLOWED} are allowed)')
        link = '[all checks](benchmarks/README.md#correct)'
        rows.append([f'GPU, bf16, NCCL with one rank ({device})', '; '.join([*said, link])])
    steps = [row for key, row in found.items() if key[0] == 'pretrain' and 'peak_gb' in row]
    eager = [row for row in steps if row['part'].endswith('eager')]
    if eager:
        rows.append([f'Pre-training step ({device}, bf16, with the update)', speeds(eager)])
        memory = [
            f'{row["arch"]} at {row["batch"]}: {row["peak_gb"]["mirl"]:.1f} GB'
            f' (estimated {row["estimated_gb"].get("mirl", "-")})'
            for row in eager
        ]
        rows.append([f'Batch per GPU in the configs ({device})', '; '.join(memory)])
    for stage, what in (('end_to_end', 'tools/train.py, JPEGs'), ('depth', 'Depth study')):
        said = [r['says'] for (s, part), r in found.items() if s == stage and part != 'plan']
        if stage == 'depth' and said:
            said = [f'{len(said)} runs ([table](benchmarks/README.md#depth-study))']
        rows += [[f'{what} ({device})', '; '.join(said)]] if said else []
    return rows


def speeds(steps: list[dict]) -> str:
    """Images per second, ours and the others'."""
    said = []
    for row in steps:
        rates = [f'{NAMES.get(n, n)} {rate:,.0f}' for n, rate in row['images_per_s'].items()]
        said.append(f'{row["arch"]}, batch {row["batch"]}: {", ".join(rates)} images/s')
    return '; '.join(said)
