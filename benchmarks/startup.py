"""From `python` to the first training step: what is imported, and where the time goes.

    python -m benchmarks.startup --out benchmarks/results/NAME.json

Every figure comes from a process of its own. The times are CPU time of the process, so that what
else runs on the machine counts less; the wall time stands beside it. `mirl_mm, no mmdet` imports in
a process where mmdet cannot be found: mmpretrain imports it wherever it is installed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mirl_mm.datasets.images import EXTENSIONS
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

ROOT = Path(__file__).parents[1]
HEAVY = ('mmdet', 'mmseg', 'transformers', 'matplotlib', 'pycocotools', 'scipy', 'skimage')
HIDE = "import sys; sys.modules['mmdet'] = None; "
IMPORTS = {
    'torch': 'import torch',
    'mmengine': 'import mmengine.runner',
    'mmpretrain': 'import mmpretrain.models, mmpretrain.datasets',
    'mmpretrain, no mmdet': HIDE + 'import mmpretrain.models, mmpretrain.datasets',
    'mirl_mm': 'import mirl_mm',
    'mirl_mm, no mmdet': HIDE + 'import mirl_mm',
}
TIMED = """
import json, sys, time
{statement}
heavy = [name for name in {heavy} if sys.modules.get(name)]
print(json.dumps(dict(cpu=time.process_time(), heavy=heavy, modules=len(sys.modules))))
"""
# The tool's own way to a runner; stops after the first step.
TRAIN = """
import json, sys, time
marks = dict()
def mark(name):
    marks[name] = time.process_time()
from mirl_mm.engine.launch import build_runner, training_config
from mmengine.hooks import Hook
mark('imports')
class Marks(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        mark('weights, datasets and hooks')
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        mark('the first step')
        print(json.dumps(marks), flush=True)
        import os
        os._exit(0)
config, images, work_dir = sys.argv[1:]
cfg, notes = training_config(config, work_dir, cfg_options={
    'train_dataloader.batch_size': 1, 'train_dataloader.num_workers': 0,
    'train_dataloader.dataset.data_root': images, 'train_dataloader.dataset.data_prefix': '',
    'val_dataloader': None, 'val_evaluator': None, 'val_cfg': None, 'default_hooks.panel': None})
mark('config')
runner = build_runner(cfg, notes)
runner.register_hook(Marks(), 'VERY_HIGH')
mark('model and runner')
runner.train()
"""
LIST = """
import json, sys, time
from mirl_mm.datasets import UnlabelledImages
before, started = time.process_time(), time.perf_counter()
dataset = UnlabelledImages(data_root=sys.argv[1])
spent = dict(cpu=time.process_time() - before, wall=time.perf_counter() - started)
print(json.dumps(dict(spent, images=len(dataset))))
"""
MMPRETRAIN_LIST = """
import json, sys, time
from mmpretrain.datasets import CustomDataset
before, started = time.process_time(), time.perf_counter()
dataset = CustomDataset(data_root=sys.argv[1], with_label=False, extensions={extensions})
spent = dict(cpu=time.process_time() - before, wall=time.perf_counter() - started)
print(json.dumps(dict(spent, images=len(dataset))))
"""


def child(script: str, *arguments: object) -> dict:
    """The last line that a script prints in a fresh process, and the wall time."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(wall=time.perf_counter() - started) | json.loads(done.stdout.splitlines()[-1])


def imports(rounds: int) -> dict[str, dict]:
    """CPU and wall seconds of an import, and the heavy packages that came with it."""
    found: dict[str, list[dict]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            found[name].append(child(TIMED.format(statement=statement, heavy=HEAVY)))
    return {
        name: dict(
            cpu=round(statistics.median(run['cpu'] for run in runs), 2),
            wall=round(statistics.median(run['wall'] for run in runs), 2),
            modules=runs[0]['modules'],
            heavy=runs[0]['heavy'],
        )
        for name, runs in found.items()
    }


def first_step(config: str, rounds: int) -> dict[str, float]:
    """CPU seconds of every stage up to the end of the first step, one image."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / 'images'
        images.mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
        for i, pixels in enumerate(noise):
            Image.fromarray(pixels).save(images / f'{i}.jpg')
        for _ in range(rounds):
            runs.append(child(TRAIN, config, images, Path(folder) / 'work'))
    stages = {}
    for name in runs[0]:
        stages[name] = round(statistics.median(run[name] for run in runs), 2)
    wall = stages.pop('wall')
    ends = list(stages.values())
    spent = [round(end - start, 2) for start, end in zip([0, *ends], ends, strict=False)]
    return dict(zip(stages, spent, strict=True)) | dict(all=ends[-1], wall=wall)


def listing(folders: int, files: int) -> dict[str, dict]:
    """Seconds to make the dataset of many (empty) files: mmpretrain's, ours."""
    with tempfile.TemporaryDirectory() as root:
        for i in range(folders):
            folder = Path(root) / f'n{i:08d}'
            folder.mkdir()
            for j in range(files):
                (folder / f'n{i:08d}_{j}.JPEG').touch()
        return {
            'mmpretrain': child(MMPRETRAIN_LIST.format(extensions=EXTENSIONS), root),
            'ours': child(LIST, root),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description='Time from python to the first step.')
    parser.add_argument('--config', default='configs/mirl/vit-s54_300e.py')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--folders', type=int, default=1000, help='of empty files; 0: no listing')
    parser.add_argument('--files', type=int, default=1281, help='in each of them')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    found = dict(imports=imports(args.rounds), first_step=first_step(args.config, args.rounds))
    for name, run in found['imports'].items():
        print(f'import {name:<22} {run["cpu"]:6.2f} s  {" ".join(run["heavy"])}', flush=True)
    for name, spent in found['first_step'].items():
        print(f'{name:<29} {spent:6.2f} s', flush=True)
    if args.folders:
        found['listing'] = listing(args.folders, args.files)
        for name, run in found['listing'].items():
            print(f'list {name:<17} {run["images"]:,} images {run["cpu"]:.2f} s')
    if args.out:
        config = {key: value for key, value in vars(args).items() if key != 'out'}
        write_json(args.out, dict(environment(), config=config, **found))


if __name__ == '__main__':
    main()
