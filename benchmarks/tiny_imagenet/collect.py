"""What runs of tools/train.py have logged, as one JSON.

python benchmarks/tiny_imagenet/collect.py WORK_DIR [...] --out benchmarks/results/NAME.json

Of the newest log of every work dir: all validation and k-NN values by step, the last training loss,
the minutes that training took, and the config as it was run.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from mirl_mm.apps.report.runs import read_scalars
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

MEASURED = ('accuracy/', 'raw/', 'knn/', 'recon/')


def collect(work_dir: Path) -> dict:
    """The results of one run; FileNotFoundError where the folder has no log or no config."""
    rows = read_scalars(work_dir)
    measured = [
        {key: value for key, value in row.items() if key == 'step' or key.startswith(MEASURED)}
        for row in rows
        if any(key.startswith(MEASURED) for key in row)
    ]
    losses = [row['loss'] for row in rows if 'loss' in row]
    return dict(measured=measured, last_loss=losses[-1], **trained(work_dir, rows))


def trained(work_dir: Path, rows: list[dict]) -> dict:
    """How long the logged rows say that a run trained, and its config.

    Raises:
        FileNotFoundError: the folder has no config.
    """
    config = next(work_dir.glob('*.py'), None)
    if config is None:
        raise FileNotFoundError(f'no config in {work_dir}')
    train = [row for row in rows if 'loss' in row]
    steps = [b['step'] - a['step'] for a, b in zip([dict(step=0), *train], train, strict=False)]
    seconds = sum(row['time'] * n for row, n in zip(train, steps, strict=True))
    cfg = Config.fromfile(config).to_dict()
    return dict(
        iterations=train[-1]['step'],
        train_minutes=round(seconds / 60, 2),
        config={key: abridged(cfg[key]) for key in sorted(cfg) if cfg[key] is not None},
    )


def abridged(value: object) -> object:
    """Plain data with a few words in the place of long lists (the indices of a subset)."""
    if isinstance(value, dict):
        return {key: abridged(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > 50:
            return f'{len(value)} values, {value[0]} to {value[-1]}'
        return [abridged(inner) for inner in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description='What runs have logged, as one JSON.')
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE')
    args = parser.parse_args()
    try:
        runs = {path.name: collect(path) for path in args.work_dirs}
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    write_json(args.out, environment() | dict(runs=runs))
    for name, run in runs.items():
        print(f'{name}: {run["measured"][-1] if run["measured"] else "nothing measured"}')


if __name__ == '__main__':
    main()
