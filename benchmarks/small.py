"""What an iteration of every config of configs/small costs on one CPU thread, against each other.

    python -m benchmarks.small --out benchmarks/results/small_cpu.json

Each is trained from scratch on generated scenes of 128 px, as ``--data`` sets it, reading in the
same process: an iteration of each in turn, so that other work on the machine meets all of them.
Two minutes of CPU time. The hooks that watch a run are left out.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from benchmarks.processes import ROOT
from benchmarks.timing import add_out, save, timed
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.demo.scenes import MASK_CLASSES
from mirl_mm.engine.launch import load_config, training_config

CONFIGS = ROOT / 'configs/small'
MOST = 64  # images of an iteration, on a CPU


def write_data(folder: Path) -> None:
    """Scenes as pictures, instances and masks, and in class folders that mean nothing."""
    scenes = write_scenes(folder / 'scenes', num_train=64, num_val=8)
    (scenes.root / 'classes.txt').write_text('\n'.join(MASK_CLASSES))
    for split in ('train', 'val'):
        for i, file in enumerate(sorted(scenes.images(split).iterdir())):
            place = folder / 'classes' / split / 'ab'[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


def training(name: str, data: Path) -> tuple[Callable[[], object], dict]:
    """A function that reads a batch and makes a step, and what the config says of the whole run."""
    file = str(CONFIGS / f'{name}.py')
    loader, length = (load_config(file)[key] for key in ('train_dataloader', 'train_cfg'))
    batch = min(loader.batch_size, MOST)
    options = {'train_dataloader.num_workers': 0, 'train_dataloader.batch_size': batch}
    if not name.startswith('mirl'):
        options['model.backbone.init_cfg'] = None
    place = str(data / ('classes' if name.startswith('finetune') else 'scenes'))
    with tempfile.TemporaryDirectory() as folder:
        cfg, _ = training_config(file, folder, data=place, cfg_options=options)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        optimizer = build_optim_wrapper(model.train(), cfg.optim_wrapper)
        batches = iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))

    def run() -> object:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            return model.train_step(next(batches), optimizer)

    images = length.max_iters * loader.batch_size
    parameters = sum(p.numel() for p in model.parameters())
    return run, dict(batch=batch, images=images, parameters=parameters)


def measure(rounds: int) -> dict[str, dict]:
    """CPU seconds of every round behind the first, by config."""
    torch.set_num_threads(1)
    names = sorted(path.stem for path in CONFIGS.glob('*.py'))
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        made = {name: training(name, Path(folder)) for name in names}
        seconds = {name: [] for name in names}
        for number in range(rounds + 1):
            for name, (run, _) in made.items():
                spent = timed(run)
                print(f'round {number} {name}: {spent.cpu:.3f} s', flush=True)
                seconds[name] += [round(spent.cpu, 4)] * (number > 0)
    return {
        name: dict(about, seconds=seconds[name], median=statistics.median(seconds[name]))
        for name, (_, about) in made.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='What iterations of configs/small cost.')
    parser.add_argument('--rounds', type=int, default=7)
    add_out(parser)
    args = parser.parse_args()
    save(args, dict(runs=measure(args.rounds)))


if __name__ == '__main__':
    main()
