"""What the hooks that watch and guard a run cost, in a real run on random pictures.

    python -m benchmarks.hooks_cost --arch s54 --batch 8 --out benchmarks/results/hooks_cost.json

Every call of these hooks is timed, also those around the optimizer's step; on a GPU the device is
waited for before and after. Health is measured at every second iteration and a panel is drawn at
every fourth, so that iterations with and without take turns. The shares are those at the default
intervals: health every 100 iterations, a panel every twentieth of 300 epochs of ImageNet-1k at a
batch of 4096, the others at every iteration.
"""

import argparse
import io
import logging
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from benchmarks.timing import synchronise
from mirl_mm.engine.hooks import BadImagesHook, FiniteHook, HealthHook, PanelHook
from mirl_mm.engine.hooks.progress import ProgressHook
from mirl_mm.engine.launch import build_runner
from mirl_mm.engine.machine import has_accelerator, has_bfloat16, set_precision
from mirl_mm.engine.run_facts import environment
from mirl_mm.engine.stopping import PreemptHook
from mirl_mm.files import write_json
from mirl_mm.models.archs import ARCHS

ROOT = Path(__file__).parents[1]
WATCHED = dict(
    progress=ProgressHook,
    health=HealthHook,
    panel=PanelHook,
    finite=FiniteHook,
    preempt=PreemptHook,
    bad_images=BadImagesHook,
)
HEALTH_EVERY, PANEL_EVERY, WARM_UP = 2, 4, 2  # iterations, here
HEALTH_INTERVAL = 100  # by default
PANEL_INTERVAL = 300 * (1_281_167 // 4096) // 20


@DATASETS.register_module()
class RandomPictures(Dataset):
    """Noise, [3, size, size] uint8."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict:
        if i >= self.length:
            raise IndexError(i)
        generator = torch.Generator().manual_seed(i)
        shape = (3, self.size, self.size)
        picture = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return dict(inputs=picture, data_samples=DataSample(img_path=f'{i}.png'))


class Terminal(io.StringIO):
    """So that progress draws its live line."""

    encoding = 'utf-8'

    def isatty(self) -> bool:
        return True


class Stopwatch:
    """Seconds of all calls in an iteration, by hook, of the step and of the whole iteration."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.seconds = defaultdict(lambda: defaultdict(float))
        for hook in runner.hooks:
            for name, kind in WATCHED.items():
                if isinstance(hook, kind):
                    for point in (
                        'before_train_iter', 'after_train_iter', '_before_update', '_after_update',
                    ):  # fmt: skip
                        if hasattr(hook, point):
                            setattr(hook, point, self.timed(name, getattr(hook, point)))
        runner.model.train_step = self.timed('step', runner.model.train_step)
        runner.train_loop.run_iter = self.timed('iteration', runner.train_loop.run_iter)

    def timed(self, name: str, call: Callable) -> Callable:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'

        def run(*args, **kwargs):
            synchronise(device)
            iteration, started = self.runner.iter, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                synchronise(device)
                self.seconds[name][iteration] += time.perf_counter() - started

        return run


def on_random_pictures(arch: str, batch: int, steps: int, folder: str, **hooks: object) -> Config:
    """The shipped MIRL config for one epoch of so many steps, with all of its hooks.

    ``hooks`` change some of them; nothing is saved, validated or scheduled.
    """
    cfg = Config.fromfile(ROOT / f'configs/mirl/vit-{arch}_{"2e" if arch == "test" else "300e"}.py')
    loader = dict(
        batch_size=batch,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='RandomPictures', length=batch * steps, size=cfg.model.backbone.img_size),
    )
    checkpoint = dict(type='SafeCheckpointHook', interval=-1, save_last=False)
    cfg.merge_from_dict(
        dict(
            train_dataloader=dict(loader, _delete_=True),
            test_dataloader=dict(loader, _delete_=True),
            train_cfg=dict(type='ExactEpochLoop', max_epochs=1),
            default_hooks=dict(checkpoint=checkpoint, **hooks),
            experiment_name=f'random-pictures-{time.time_ns()}',
            work_dir=folder,
            launcher='none',
        )
    )
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg', 'param_scheduler', 'custom_hooks'):
        cfg.pop(key, None)
    cfg.optim_wrapper.pop('accumulative_counts', None)
    set_precision(cfg, False, has_accelerator(), has_bfloat16())
    return cfg


def run(arch: str, batch: int, steps: int) -> dict[str, list[float]]:
    """Seconds of every iteration behind the first two, by hook, 'step' and 'iteration'."""
    steps += WARM_UP
    every = dict(health=dict(interval=HEALTH_EVERY), panel=dict(interval=PANEL_EVERY))
    real, sys.stdout = sys.stdout, Terminal()
    try:
        with tempfile.TemporaryDirectory() as folder:
            runner = build_runner(on_random_pictures(arch, batch, steps, folder, **every))
            runner.logger.setLevel(logging.ERROR)
            watch = Stopwatch(runner)
            runner.train()
    finally:
        sys.stdout = real
    behind = range(WARM_UP, steps)
    return {name: [each[i] for i in behind] for name, each in watch.seconds.items()}


def costs_of(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Seconds of one measurement of health and one panel, and of an iteration without, by hook."""
    middle = statistics.median
    idle = {name: values[::HEALTH_EVERY] for name, values in seconds.items()}
    measuring = middle(seconds['health'][1::HEALTH_EVERY]) - middle(idle['health'])
    drawing = middle(seconds['panel'][1::PANEL_EVERY]) - middle(idle['panel'])
    each = {name: middle(idle[name]) for name in (*WATCHED, 'step', 'iteration')}
    return dict(each, measuring=measuring, drawing=drawing)


def shares_of(costs: dict[str, float]) -> dict[str, float]:
    """Percent of a step without hooks, at the default intervals."""
    inside = costs['finite'] + costs['health']  # called by the optimizer, so within the step
    step = costs['step'] - inside
    spent = {name: costs[name] for name in WATCHED}
    spent['health'] += costs['measuring'] / HEALTH_INTERVAL
    spent['panel'] += costs['drawing'] / PANEL_INTERVAL
    shares = {name: round(100 * cost / step, 4) for name, cost in spent.items()}
    return dict(shares, all=round(sum(shares.values()), 4))


def main() -> None:
    parser = argparse.ArgumentParser(description='What the hooks that watch a run cost.')
    parser.add_argument('--arch', default='s54', choices=ARCHS)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--steps', type=int, default=24, help='behind two to warm up')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    if args.steps < PANEL_EVERY:
        parser.error(f'--steps must be at least {PANEL_EVERY}, got {args.steps}')
    seconds = run(args.arch, args.batch, args.steps)
    costs = costs_of(seconds)
    shares = shares_of(costs)
    print(
        f'{args.arch}, batch {args.batch}: step {costs["step"]:.3f} s; one measurement of health '
        f'{1e3 * costs["measuring"]:.1f} ms, one panel {1e3 * costs["drawing"]:.0f} ms, a look at '
        f'all gradients {1e3 * costs["finite"]:.1f} ms'
    )
    print(', '.join(f'{name} {share:.3f} %' for name, share in shares.items()), 'of the step')
    if args.out:
        config = dict(
            arch=args.arch,
            batch=args.batch,
            steps=args.steps,
            health_interval=HEALTH_INTERVAL,
            panel_interval=PANEL_INTERVAL,
        )
        seconds = {name: [round(s, 6) for s in values] for name, values in seconds.items()}
        costs = {name: round(cost, 6) for name, cost in costs.items()}
        write_json(
            args.out,
            environment() | dict(config=config, seconds=seconds, costs=costs, percent=shares),
        )


if __name__ == '__main__':
    main()
