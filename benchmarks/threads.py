"""Which threads and processes a CPU run should have, alone and beside a busy process.

    python -m benchmarks.threads --out benchmarks/results/threads_cpu.json

The demo's pre-training by processes x threads, and forward and backward of S-12 at 224 px by
threads, each in a process of its own, on free cores and beside one process that never waits; and
the cores that a run would find free. Under 6 minutes on 2 cores.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks.pretrain_step import step
from benchmarks.processes import ROOT, end_with_parent, with_checkout
from benchmarks.timing import add_out, save, timed
from mirl_mm.demo import UNLABELLED
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.engine import machine
from mirl_mm.engine.launch import build_runner, load_config, training_config

CONFIGS = ROOT / 'configs'
# Name: config, images of a batch, steps, processes x threads.
WORK = dict(
    demo=('demo/mirl_12-blocks.py', 32, 120, ['1x1', '1x2', '2x1']),
    s12=('mirl/vit-s12_300e.py', 8, 10, ['1x1', '1x2']),
)
BUSY = 'while True: pass'


def train(scenes: str, folder: str, steps: int, batch: int, rank: int, number: int) -> None:
    """The demo's pre-training, without its validation."""
    options = dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator'))
    options |= {f'default_hooks.{name}': None for name in ('panel', 'progress', 'summary')}
    options |= {
        'train_cfg.max_iters': steps,
        'train_dataloader.batch_size': batch // number,
        'train_dataloader.dataset.data_root': scenes,
        'default_hooks.logger.interval': 10,
    }
    launcher = 'none' if number == 1 else 'pytorch'
    config = str(CONFIGS / WORK['demo'][0])
    build_runner(*training_config(config, folder, launcher=launcher, cfg_options=options)).train()


def rate(name: str, shape: str, scenes: str) -> float:
    """Images a second of all processes together, after the first third."""
    config, batch, steps, _ = WORK[name]
    if name != 'demo':
        init_default_scope('mmpretrain')
        model = MODELS.build(load_config(str(CONFIGS / config)).model).train()
        run = functools.partial(step, model, torch.randn(batch, 3, 224, 224), torch.float32)
        seconds = [timed(run).wall for _ in range(steps)][steps // 3 :]
    else:
        with tempfile.TemporaryDirectory() as folder:
            work = functools.partial(train, scenes, folder, steps, batch)
            machine.in_processes(int(shape[0]), work)
            log = next(Path(folder).glob('*/vis_data/scalars.json')).read_text()
        rows = [json.loads(line) for line in log.splitlines()]
        seconds = [row['time'] for row in rows if 'time' in row][len(rows) // 3 :]
    return round(batch / statistics.median(seconds), 2)


def apart(name: str, shape: str, scenes: str) -> float:
    """:func:`rate` in a process of its own, since OMP_NUM_THREADS is read once."""
    command = [sys.executable, '-m', 'benchmarks.threads', '--case', name, shape, scenes]
    environ = with_checkout() | dict(OMP_NUM_THREADS=shape[-1])
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.decode().splitlines()[-1])


def measure(scenes: str) -> dict[str, dict[str, dict[str, float]]]:
    """Images a second by work, then processes x threads, then neighbour."""
    found = {name: {shape: {} for shape in work[-1]} for name, work in WORK.items()}
    for neighbour in ('free', 'busy'):
        other = neighbour == 'busy' and subprocess.Popen([sys.executable, '-c', BUSY])
        try:
            for name, shapes in found.items():
                for shape, rates in shapes.items():
                    rates[neighbour] = apart(name, shape, scenes)
                    print(f'{neighbour} {name} {shape}: {rates[neighbour]} images/s', flush=True)
            cores = machine.cores()
            print(f'free of {cores} cores: {machine.free_cores(cores):.2f}', flush=True)
        finally:
            if other:
                other.kill()
                other.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='Rates by processes, threads and neighbours.')
    parser.add_argument('--case', nargs=3, help=argparse.SUPPRESS)
    add_out(parser)
    args = parser.parse_args()
    if args.case:
        end_with_parent()
        print(rate(*args.case))
        return
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder) / 'scenes', num_unlabelled=UNLABELLED)
        found = measure(f'{scenes.root}/')
    save(args, dict(images_per_second=found, cores=os.cpu_count()))


if __name__ == '__main__':
    main()
