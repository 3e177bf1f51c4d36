"""Tables and sentences from results: README.md, study/README.md, docs/evidence.md,
docs/small-data.md, the project's.

    python -m benchmarks.tables

A table whose result is not there yet says "not run" and how to run it.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu import tables as gpu
from benchmarks.markdown import filled, inverse, listed, markdown, ratio
from benchmarks.study import evidence, expect
from benchmarks.study import rows as study_rows
from benchmarks.study import tables as study

README = Path(__file__).with_name('README.md')
PROJECT = README.parents[1] / 'README.md'
STUDY = README.with_name('study') / 'README.md'
EVIDENCE = PROJECT.with_name('docs') / 'evidence.md'
SMALL = PROJECT.with_name('docs') / 'small-data.md'
RESULTS = README.with_name('results')

# Results by file name, and the command that makes each (with --out).
PRETRAIN = {'pretrain_s54_cpu': 'pretrain_step --arch s54 --batch 8 --update --profile'}
SETTINGS = {
    'settings_s54_cpu': 'pretrain_step --arch s54 --batch 8 --against compiled checkpointed'
}
IDEAS = {'ideas_s54_cpu': 'ideas --arch s54 --batch 8'}
DENSE = {
    'dense_b12-512_cpu': 'dense_step --arch b12 --size 512',
    'dense_b12-1024_cpu': 'dense_step --arch b12 --size 1024 --rounds 2',
    'dense_s54-1024_cpu': 'dense_step --arch s54 --depth 14 --size 1024 --rounds 3',
}
WHOLE = {
    'whole_b12-512_cpu': 'dense_step --arch b12 --size 512 --batch 2 --rounds 2 '
    '--whole mask-rcnn upernet',
}
LOADER = {'loader_cpu': 'loader'}
STARTUP = {'startup_cpu': 'startup'}
STALL = {'stall_cpu': 'stall'}
GROWTH = {'growth_cpu': 'growth'}
COCO_START = {'coco_start_cpu': 'coco_start'}
SCALING = {'scaling_cpu': 'scaling'}
THREADS = {'threads_cpu': 'threads'}
MEMORY = {'largest_batch': 'largest_batch'}
EXPORT = {'export_cpu': 'export --threads 1 --clock cpu'}
TAPS = {'taps_cpu': 'taps CHECKPOINT', 'taps_frozen_cpu': 'taps CHECKPOINT --frozen'}
COST = {'step_cost': 'step_cost'}
LEARNS = {False: 'all of it', True: 'its heads'}

Found = Mapping[str, dict | None]


def pretrain(found: Found) -> str:
    """A row for every model: time, ratio, rate, memory."""
    head = ['model', 'step, s', 'ours / it', 'GFLOP', 'GFLOP/s', 'of a matrix product', 'peak, MB']
    parts = []
    for name, result in found.items():
        if result is None:
            continue
        rows = [
            [
                model,
                f'{median:.3f}',
                ratio(result['ratios'].get(model)),
                f'{result["gflop"][model]:,.0f}',
                f'{result["gflops"][model]:,.0f}',
                f'{result["gflops"][model] / result["matrix_gflops"]:.0%}',
                f'{result["peak_mb"][model]:,}',
            ]
            for model, median in result['medians'].items()
        ]
        arch, batch = result['config']['arch'], result['config']['batch']
        parts.append(f'{arch}, batch {batch} ({stamp(name, result)}):\n\n{markdown(head, rows)}')
        if whole := result.get('with_update'):
            rows = [
                [n, f'{s:.3f}', ratio(whole['ratios'].get(n))] for n, s in whole['medians'].items()
            ]
            parts.append(markdown(['with the update', 'step, s', 'ours / it'], rows))
    return '\n\n'.join(parts)


def profile(found: Found) -> str:
    """Where the time goes, model by model."""
    rows = []
    for result in present(found):
        for model, operations in result.get('profile', {}).items():
            named = ', '.join(f'{each["operation"]} {each["share"]:.0%}' for each in operations[:7])
            rows.append([result['config']['arch'], model, named])
    return markdown(['arch', 'model', 'share of the time in operations themselves'], rows)


def settings(found: Found) -> str:
    """Settings for speed and memory against the default."""
    rows = [
        [
            model,
            f'{median:.3f}',
            f'{median / result["medians"]["mirl"]:.2f}',
            f'{result["peak_mb"][model]:,}',
        ]
        for result in present(found)
        for model, median in result['medians'].items()
    ]
    return markdown(['setting', 'step, s', 'of the default', 'peak, MB'], rows)


def ideas(found: Found) -> str:
    """What a step costs without each idea."""
    rows = []
    for result in present(found):
        for part, base in (('step', 'as it is'), ('update', 'one group, fused')):
            medians, ratios = result[part]['medians'], result[part]['ratios']
            for name, median in medians.items():
                rows.append([part, name, f'{median:.3f}', inverse(ratios.get(name)) or '1'])
            assert base in medians
    return markdown(['what', 'variant', 's', 'of ours'], rows)


def dense(found: Found) -> str:
    """A row for every encoder and size."""
    rows = []
    for result in present(found):
        config = result['config']
        depth = f', first {config["depth"]} blocks' if config['depth'] else ''
        where = f'{config["arch"]}{depth}, {config["size"]} px, {result["threads"]} threads'
        for model, median in result['medians'].items():
            peak = f'{result["peak_mb"][model]:,}'
            rows.append([where, model, f'{median:.2f}', ratio(result['ratios'].get(model)), peak])
    return markdown(['encoder', 'attention', 'step, s', 'ours / it', 'peak, MB'], rows)


def whole(found: Found) -> str:
    """Training steps of whole models."""
    rows = [
        [f'{name}, {result["config"]["arch"]}, {result["config"]["size"]} px',
         f'{result["medians"][name]:.2f}', ratio(share)]
        for result in present(found)
        for name, share in result['backbone_share'].items()
    ]  # fmt: skip
    return markdown(['model', 'step, s', 'share of the backbone'], rows)


def loader(found: Found) -> str:
    """Images per second and core."""
    rows, said = [], ''
    for result in present(found):
        for name, median in result['medians'].items():
            values = result['ratios'].get(name)
            rows.append([name, f'{median:.0f}', listed(values) if values else '1'])
        moved = result['pixel_difference']
        said = (
            f'Pixels of the same draws differ by {moved["max"]} levels of 255 at most, '
            f'{moved["mean"]} on average.'
        )
    return markdown(['pipeline', 'images/s and core', 'of mmpretrain'], rows) + f'\n\n{said}'


def startup(found: Found) -> str:
    """Imports, stages to the first step, and lists of files."""
    parts = []
    for result in present(found):
        rows = [
            [name, run['cpu'], run['wall'], ', '.join(run['heavy']) or '-']
            for name, run in result['imports'].items()
        ]
        parts.append(markdown(['import', 'CPU, s', 'wall, s', 'heavy packages that come'], rows))
        stages = [[name, seconds] for name, seconds in result['first_step'].items()]
        parts.append(markdown(['up to the first step', 's'], stages))
        if 'listing' in result:
            rows = [
                [name, f'{run["images"]:,}', f'{run["cpu"]:.2f}', f'{run["wall"]:.2f}']
                for name, run in result['listing'].items()
            ]
            parts.append(markdown(['list of files', 'images', 'CPU, s', 'wall, s'], rows))
    return '\n\n'.join(parts)


def coco_start(found: Found) -> str:
    """mmdet's parse of a large file, and our checks of it."""
    parts = []
    for result in present(found):
        rows = [
            [name, *(f'{run[key]:.1f}' for key in ('cpu', 'seconds', 'peak'))]
            for name, run in result['medians'].items()
        ]
        parts.append(markdown(['a file of COCO size', 'CPU, s', 'wall, s', 'peak, GB'], rows))
        parts.append(f'Ours / mmdet, CPU time, round by round: {listed(result["ratios"])}.')
    return '\n\n'.join(parts)


def scaling(found: Found) -> str:
    """Depths, and processes."""
    parts = []
    for result in present(found):
        depth, batch = result['depth'], result['config']['batch']
        rows = [[name, f'{median:.3f}'] for name, median in depth['medians'].items()]
        growth = depth['growth']
        parts.append(markdown(['depth', 'step, s'], rows))
        parts.append(
            'The step from 24 to 48 blocks over twice that from 12 to 24 (1 is a straight line): '
            f'{depth["growth_of_medians"]:.3f} of the medians; round by round {ratio(growth)}.'
        )
        rows = [
            [name, f'{run["seconds"]:.3f}', f'{2 * batch / run["seconds"]:.1f}',
             ratio(run['with_over_without'])]
            for name, run in result['processes'].items()
        ]  # fmt: skip
        head = ['two processes, DDP', 'step, s', 'images/s', 'with / without the exchange']
        parts.append(markdown(head, rows))
        one = depth['medians']['12 blocks']
        parts.append(
            f'One process with {result["threads"]} threads makes {batch / one:.1f} images/s with '
            f'the same model of 12 blocks and a batch of {batch}.'
        )
    return '\n\n'.join(parts)


def memory(found: Found) -> str:
    """The largest batch by arch and memory."""
    rows, sizes = [], []
    for result in present(found):
        for arch, kinds in result['archs'].items():
            for name, kind in kinds.items():
                sizes = list(kind['largest'])
                batches = [f'{batch:,}' if batch else '-' for batch in kind['largest'].values()]
                gb = [f'{kind["fixed_gb"]:.2f}', f'{kind["per_image_gb"]:.3f}']
                rows.append([arch, name, *gb, *batches])
    head = ['arch', 'setting', 'fixed, GB', 'GB an image', *(f'{gb} GB' for gb in sizes)]
    return markdown(head, rows)


def on_paper(found: Found) -> str:
    """What a step must do at least, and how many images a second follow."""
    rows, devices = [], []
    for result in present(found):
        for arch, step in result['archs'].items():
            for name, model in step['models'].items():
                devices = list(model['floor_ms'])
                rates = [step['batch'] / model['floor_ms'][device] * 1e3 for device in devices]
                rows.append(
                    [f'{arch}, batch {step["batch"]}', name, f'{model["kernels"]:,}', model['gb'],
                     model['tflop'], *(f'{rate:,.0f}' for rate in rates),
                     f'{model["products"]["H200"]:.0%}']
                )  # fmt: skip
    head = ['step', 'model', 'kernels', 'GB', 'TFLOP', *(f'{d}, images/s' for d in devices)]
    return markdown([*head, 'products, of the time (H200)'], rows)


def threads(found: Found) -> str:
    """Images per second by processes x threads, on free cores and beside a busy process."""
    rows = [
        [work, shape, rates['free'], rates['busy'], f'{rates["busy"] / rates["free"]:.0%}']
        for result in present(found)
        for work, shapes in result['images_per_second'].items()
        for shape, rates in shapes.items()
    ]
    head = ['work', 'processes x threads', 'alone, images/s', 'beside one busy process', 'kept']
    return markdown(head, rows)


def export(found: Found) -> str:
    """Images per second by batch, and the largest difference from torch."""
    rows, batches, sizes = [], [], []
    for result in present(found):
        batches = [*result['batches'].values()]
        for name, moved in result['difference'].items():
            sizes = [*moved]
            rates = [batch['images_per_second'][name] for batch in batches]
            times = [ratio(batch['ratios'].get(name)) for batch in batches]
            rows.append([name, *rates, *times, *(f'{each:.2g}' for each in moved.values())])
        batches = [*result['batches']]
    head = [f'images/s, batch {batch}' for batch in batches]
    head += [f'torch / it, batch {batch}' for batch in batches]
    head += [f'largest difference, {size}' for size in sizes]
    return markdown(['s12, 224 px', *head], rows)


def taps(found: Found) -> str:
    """The segment curve, and what segmentors come to that tap blocks chosen by it."""
    rows, curve = [], present(found)[0]['curve']
    for result in present(found):
        for name, each in result['summary'].items():
            blocks = ', '.join(str(block + 1) for block in result['taps'][name])
            spread = ['{mean:.1f} ± {deviation:.1f}'.format(**each[key]) for key in each]
            seeds = ', '.join(f'{value:.1f}' for value in result['runs'][name])
            rows.append([LEARNS[result['config']['frozen']], name, blocks, *spread, seeds])
    ridge = [f'{row["miou"]:.1f} ± {row["error"]:.1f}' for row in curve]
    head = ['behind block', *(row['block'] for row in curve)]
    parts = [markdown(head, [['ridge, mIoU', *ridge]])]
    head = ['what learns', 'taps', 'blocks', 'UperNet, mIoU', 'more than the first', 'seeds']
    return '\n\n'.join([*parts, markdown(head, rows)])


def stall(found: Found) -> str:
    """How long a checkpoint stops the training: medians of the rounds."""
    rows = []
    for result in present(found):
        for row in result['rows']:
            keys = ('stall', 'cpu', 'longest', 'written')
            seconds = [f'{statistics.median(row[key]):.2f}' for key in keys]
            rows.append([f'{row["gb"]:g} GB', row['hook'], *seconds, listed(row['stall'])])
    head = ['state', 'hook', 'stall, s', 'CPU in it, s', 'longest iteration, s', 'written after, s']
    return markdown([*head, 'stalls of the rounds'], rows)


def growth(found: Found) -> str:
    """Trends of a process, its work dir at two moments, and what histories cost."""
    parts = []
    for result in present(found):
        trends, disk = [], []
        for kind, run in result['runs'].items():
            early, last = run['windows'][5], run['windows'][-1]  # behind the warm-up
            runs = f'{kind}, {last["iteration"]:,} iterations'
            for name, each in run['trends'].items():
                per = f'{each["slope"]:.3f} ± {each["error"]:.3f}'
                verdict = '**grows**' if each['grows'] else 'no growth beyond noise'
                ends = f'{each["start"]:.1f}', f'{each["end"]:.1f}'
                trends.append([runs, name, *ends, per, each['counts'], verdict])
            for name, size in sorted(last['disk'].items()):
                sizes = f'{early["disk"].get(name, 0) / 1e3:,.0f}', f'{size / 1e3:,.0f}'
                disk.append([kind, name, run['files'][name]['files'], *sizes])
        head = ['run', 'what', 'start', 'end', 'per 1,000 iterations', 'counts from', 'verdict']
        parts.append(markdown(head, trends))
        head = ['run', 'files of the work dir', 'number', 'KB after the warm-up', 'KB at the end']
        parts.append(markdown(head, disk))
        rows = [
            [length, each['update_us'], f'{each["checkpoint_bytes"] / 1e6:g}']
            for length, each in result['histories'].items()
        ]
        head = ['values kept of a scalar', 'one more, us', 'in a checkpoint, MB']
        parts.append(markdown(head, rows))
    return '\n\n'.join(parts)


TABLES: dict[str, tuple[Callable[[Found], str], dict[str, str]]] = {
    'pretrain': (pretrain, PRETRAIN),
    'profile': (profile, PRETRAIN),
    'settings': (settings, SETTINGS),
    'ideas': (ideas, IDEAS),
    'dense': (dense, DENSE),
    'whole': (whole, WHOLE),
    'loader': (loader, LOADER),
    'startup': (startup, STARTUP),
    'stall': (stall, STALL),
    'growth': (growth, GROWTH),
    'coco_start': (coco_start, COCO_START),
    'scaling': (scaling, SCALING),
    'threads': (threads, THREADS),
    'memory': (memory, MEMORY),
    'export': (export, EXPORT),
    'taps': (taps, TAPS),
    'on_paper': (on_paper, COST),
}


def pages() -> dict[Path, dict[str, str]]:
    """What stands between the marks of every page, by name."""
    found = study_rows.read()
    return {
        README: tables(),
        STUDY: study.all_tables(found),
        EVIDENCE: evidence.all_evidence(found),
        PROJECT: gpu.status(RESULTS) | evidence.short_evidence(found),
        SMALL: expect.tables(found, RESULTS),
    }


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Every table in Markdown, by name."""
    made = {name: table(make, files, results) for name, (make, files) in TABLES.items()}
    return made | gpu.tables(results)


def table(make: Callable[[Found], str], files: Mapping[str, str], results: Path) -> str:
    """A table of the results that are there, and a line for each that is not."""
    found = {name: read(results / f'{name}.json') for name in files}
    parts = [make(found)] if any(found.values()) else []
    if make is not profile:
        parts += [stamps(found)] if make is not pretrain and any(found.values()) else []
        parts += [
            f'`{name}`: **not run**. `python -m benchmarks.{files[name]} '
            f'--out benchmarks/results/{name}.json`'
            for name, result in found.items()
            if result is None
        ]
    return '\n\n'.join(parts)


def read(file: Path) -> dict | None:
    return json.loads(file.read_text()) if file.is_file() else None


def present(found: Found) -> list[dict]:
    return [result for result in found.values() if result is not None]


def stamps(found: Found) -> str:
    named = {name: result for name, result in found.items() if result is not None}
    return 'From ' + '; '.join(stamp(name, result) for name, result in named.items()) + '.'


def stamp(name: str, result: Mapping) -> str:
    """File, date, hardware, threads, precision, versions."""
    dtype = result.get('config', {}).get('dtype')
    clock = result.get('config', {}).get('clock')
    words = [
        f'[{name}.json](results/{name}.json)',
        result['date'],
        result['hardware'],
        f'{result["threads"]} threads',
        *([dtype] if dtype else []),
        *([f'{clock} time'] if clock else []),
        *(f'{each} {result["versions"][each]}' for each in ('torch', 'mmpretrain')),
    ]
    return ', '.join(words)


def main() -> None:
    try:
        made = pages()
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    for page, of_page in made.items():
        page.write_text(filled(page.read_text(), of_page))


if __name__ == '__main__':
    main()
