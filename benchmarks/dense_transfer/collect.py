"""What the runs of this folder have logged, as one JSON, and the README's table from it.

python -m benchmarks.dense_transfer.collect WORK_DIR [...] --out FILE [--readme README.md]

Of the newest log of every work dir: the loss curve, all that was evaluated, by iteration, the
minutes that training took, and the config as it was run; and what tools/test.py left in folders
`test_*` of the work dir.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks.tables import markdown
from benchmarks.tiny_imagenet.collect import trained
from mirl_mm.apps.report.runs import read_scalars
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

MEASURED = ('mIoU', 'mAcc', 'aAcc', 'coco/', 'recon/')
POINTS = 60  # of a loss curve
BEGIN, END = '<!-- results: written by collect.py -->', '<!-- end of results -->'


def collect(work_dir: Path) -> dict:
    """The results of one run; FileNotFoundError where the folder has no log or no config."""
    rows = read_scalars(work_dir)
    return dict(
        losses=thinned([(row['step'], row['loss']) for row in rows if 'loss' in row]),
        evaluated=evaluations(rows),
        tests={path.name: tested(path) for path in sorted(work_dir.glob('test_*'))},
        **trained(work_dir, rows),
    )


def thinned(curve: list[tuple[int, float]]) -> list[list[float]]:
    """At most POINTS pairs of iteration and the mean loss since the pair before."""
    size = -(-len(curve) // POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 4)] for part in parts]


def evaluations(rows: list[dict]) -> list[dict]:
    """The metrics of each validation, and the iteration behind which it came."""
    found, step = [], 0
    for row in rows:
        step = row['step'] if 'loss' in row else step
        metrics = {key: value for key, value in row.items() if key.startswith(MEASURED)}
        if metrics and 'loss' not in row:
            found.append(dict(iteration=step, **metrics))
    return found


def tested(folder: Path) -> dict:
    """The metrics that tools/test.py has left in its work dir, of the newest run."""
    logs = sorted(folder.glob('*/2*.json'))
    if not logs:
        raise FileNotFoundError(f'no */TIMESTAMP.json below {folder}: not a work dir of a test')
    metrics = json.loads(logs[-1].read_text())
    return {key: value for key, value in metrics.items() if key.startswith(MEASURED)}


def table(runs: dict[str, dict]) -> str:
    """Markdown: one line per metric, one column per start, the rest of the story in JSON."""
    pairs = [
        ('CamVid test, whole images, mIoU', 'camvid', 'test_whole', 'mIoU', 1),
        ('CamVid test, whole images, pixel accuracy', 'camvid', 'test_whole', 'aAcc', 1),
        ('CamVid test, slides of 192 px, mIoU', 'camvid', 'test_slide', 'mIoU', 1),
        ('coco_mini val, box AP', 'coco-mini', None, 'coco/bbox_mAP', 100),
        ('coco_mini val, box AP at IoU 0.5', 'coco-mini', None, 'coco/bbox_mAP_50', 100),
        ('coco_mini val, mask AP', 'coco-mini', None, 'coco/segm_mAP', 100),
        ('coco_mini val, mask AP at IoU 0.5', 'coco-mini', None, 'coco/segm_mAP_50', 100),
        ('coco_mini val, box AP of `person`', 'coco-mini', None, 'coco/person_precision', 100),
        ('coco_mini val, recall of 100 boxes, any class', 'coco-mini', None, 'coco/AR@100', 100),
    ]
    rows = []
    for title, data, test, key, scale in pairs:
        values = []
        for start in ('mirl', 'scratch'):
            run = runs[f'{data}_{start}']
            source = run['tests'][test] if test else run['evaluated'][-1]
            values.append(f'{scale * source[key]:.1f}')
        rows.append([title, *values])
    return markdown(['percent', 'MIRL pre-trained', 'from scratch'], rows)


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the two markers; ValueError where they are missing."""
    pattern = re.compile(f'{re.escape(BEGIN)}.*?{re.escape(END)}', re.DOTALL)
    content = readme.read_text()
    if not pattern.search(content):
        raise ValueError(f'{readme} has no {BEGIN!r} and {END!r} to write between')
    readme.write_text(pattern.sub(lambda _: f'{BEGIN}\n{text}\n{END}', content))


def main() -> None:
    parser = argparse.ArgumentParser(description='What runs have logged, as one JSON.')
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE')
    parser.add_argument('--readme', type=Path, metavar='FILE', help='write the table into it')
    args = parser.parse_args()
    try:
        runs = {path.name: collect(path) for path in args.work_dirs}
        if args.readme:
            put_into(args.readme, table(runs))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f'error: {error}')
    write_json(args.out, environment() | dict(runs=runs))
    for name, run in runs.items():
        print(f'{name}: {run["evaluated"][-1] if run["evaluated"] else "nothing evaluated"}')


if __name__ == '__main__':
    main()
