"""The tables of README.md, from the results as data.

python -m benchmarks.tiny_imagenet.table
"""

import csv
import json
import re
from pathlib import Path

import benchmarks.tables

README = Path(__file__).with_name('README.md')
RESULTS = README.parents[1] / 'results/tiny_imagenet'
ENCODERS = dict(random='untrained', mae='MAE', mirl='MIRL')  # as in the names of files
RUNS = dict(random='untrained', mae='mae', mirl='mirl')  # as in the names of work dirs
BETWEEN = re.compile(r'(?<=<!-- tables of table.py -->\n).*(?=<!-- end of tables -->)', re.S)


def tables(results: Path = RESULTS) -> str:
    """All tables, in Markdown.

    Raises:
        OSError, KeyError: results are missing.
    """
    knn = {name: read(results / f'knn_{name}.json') for name in ENCODERS}
    logged = read(results / 'runs.json')
    with (results / 'depth.csv').open() as file:
        depth = list(csv.DictReader(file))
    return '\n'.join([transfer(knn, logged['runs']), progress(logged['runs']), curves(depth)])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def transfer(knn: dict[str, dict], runs: dict[str, dict]) -> str:
    """One line an encoder: k-NN, linear probe, fine-tuning."""
    rows = []
    for name, title in ENCODERS.items():
        near = knn[name]['top1']
        linear, tuned = (last(runs[f'{task}_{RUNS[name]}']) for task in ('linear', 'finetune'))
        rows.append([
            title,
            near['cls_k20'],
            near['avg_k20'],
            linear['accuracy/top1'],
            linear['accuracy/top5'],
            tuned['accuracy/top1'],
            tuned['raw/accuracy/top1'],
            tuned['raw/accuracy/top5'],
        ])  # fmt: skip
    head = ['encoder', '20-NN, cls', '20-NN, average', 'linear', 'linear, top 5',
            'fine-tuned, averaged weights', 'fine-tuned, raw', 'raw, top 5']  # fmt: skip
    return markdown(head, rows)


def progress(runs: dict[str, dict]) -> str:
    """k-NN while pre-training, with the few images that KNNHook was given."""
    rows = []
    for name in ('mae', 'mirl'):
        found = [row for row in runs[f'{name}_24-blocks']['measured'] if 'knn/avg_k20' in row]
        for pool in ('cls', 'avg'):
            title = f'{ENCODERS[name]}, {dict(cls="cls", avg="average")[pool]}'
            rows.append([title, *(row[f'knn/{pool}_k20'] for row in found)])
    epochs = [str(row['step']) for row in found]
    return markdown(['20-NN after epoch', *epochs], rows)


def curves(depth: list[dict]) -> str:
    """Probes behind the first and every fourth block; depth.csv has them all."""
    depth = [row for row in depth if row['block'] == '1' or int(row['block']) % 4 == 0]
    labels = list(dict.fromkeys(row['label'] for row in depth))
    blocks = list(dict.fromkeys(row['block'] for row in depth))
    rows = []
    for probe, title in dict(knn='20-NN', linear='ridge').items():
        for label in labels:
            values = [float(row[probe]) for row in depth if row['label'] == label]
            rows.append([f'{title}, {label}', *values])
    return markdown(['behind block', *blocks], rows)


def last(run: dict) -> dict:
    return [row for row in run['measured'] if 'accuracy/top1' in row][-1]


def markdown(head: list[str], rows: list[list]) -> str:
    """With one decimal for every number."""
    shown = [[v if isinstance(v, str) else f'{v:.1f}' for v in row] for row in rows]
    return benchmarks.tables.markdown(head, shown) + '\n'


if __name__ == '__main__':
    text = README.read_text()
    README.write_text(BETWEEN.sub(lambda _: f'\n{tables()}\n', text))
