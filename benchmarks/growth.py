"""What grows over hours of training: memory, open files, threads, processes, step time, files.

    OMP_NUM_THREADS=1 python -m benchmarks.growth --out benchmarks/results/growth_cpu.json

The shipped test configs, smaller still, one after the other in a process of their own: loader
workers that are started again with every pass, validation, checkpoints and pictures. Each run is
cut into windows; the first quarter is warm-up, a line is fitted to the rest. **It grows** where the
slope is above three of its standard errors, and the rise over the whole line above what counts
(``COUNTS``). Memory is what belongs to the process alone (anonymous pages, without garbage and
freed ones that the allocator keeps), the middle of a window; files, threads and children are the
least of a window; step time is CPU time, also a middle.
"""

import argparse
import ctypes
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from benchmarks.processes import ROOT, end_with_parent, family
from benchmarks.timing import add_out, save
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.engine.launch import build_runner, training_config

WINDOWS, WARM_UP, SAMPLES, BATCH = 20, 5, 5, 2  # windows, of them without a say; looks at each
# How much more, from the end of the warm-up to the end of the run, counts as growth.
COUNTS = dict(memory_mb=2.0, files=0.5, threads=0.5, children=0.5, step_ms=None)
STEP_SHARE = 0.1  # of the step time at the start, for step_ms: others share the cores
LENGTHS = (1_000, 10_000, 250_000)  # of a history
_ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
_DENSE = {
    'model.backbone.init_cfg': None,
    'model.backbone.out_indices': (0, 1, 2, 3),
    'model.neck.in_channels': 32,
    'train_dataloader.sampler.type': 'DefaultSampler',  # passes that end, and workers with them
}
KINDS = {
    'mirl': (
        'mirl/vit-test_2e.py',
        {
            'model.backbone.num_segments': 2,
            'model.neck.decoder_embed_dim': 32,
            'model.neck.decoder_depth': 1,
            'model.neck.decoder_num_heads': 2,
        },
    ),
    'mask-rcnn': (
        'mask-rcnn/vit-test_20it_scenes.py',
        {key: x for key, x in _DENSE.items() if 'out_indices' not in key}
        | {
            'model.data_preprocessor.pad_size_divisor': 64,
            'model.backbone.window_size': 3,
            'model.train_cfg.rpn_proposal.max_per_img': 50,
            'model.train_cfg.rcnn.sampler.num': 16,
            'model.test_cfg.rpn.max_per_img': 50,
            'model.test_cfg.rcnn.max_per_img': 10,
        },
    ),
    'upernet': (
        'upernet/vit-test_20it_scenes.py',
        _DENSE
        | {'model.data_preprocessor.size': (64, 64), 'model.decode_head.in_channels': [32] * 4}
        | {'model.auxiliary_head.in_channels': 32, 'model.test_cfg': dict(mode='whole')},
    ),
}


class Growth(Hook):
    """Look at this process now and then, and at its work dir at the end of every window."""

    priority = 'LOWEST'

    def __init__(self, window: int) -> None:
        self.window, self.every = window, max(window // SAMPLES, 1)
        self.windows: list[dict] = []
        self.looks: list[dict] = []
        self.steps: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.clock = time.process_time()

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        now, done = time.process_time(), runner.iter + 1
        self.steps.append(1e3 * (now - self.clock))
        if done % self.every == 0:
            self.looks.append(look())
        if done % self.window == 0:
            runner.call_hook('flush')  # the checkpoint is there
            looks = {name: [each[name] for each in self.looks] for name in self.looks[0]}
            found = {name: min(values) for name, values in looks.items()}
            found['memory_mb'] = round(statistics.median(looks['memory_mb']), 3)
            found['step_ms'] = round(statistics.median(self.steps), 3)
            disk = {name: sum(files) for name, files in files_of(Path(runner.work_dir)).items()}
            self.windows.append(dict(iteration=done, **found, disk=disk))
            self.looks, self.steps = [], []
        self.clock = time.process_time()  # looking is no part of a step


def look() -> dict[str, float]:
    """Anonymous memory in MB, open files, threads and processes below this one.

    Garbage in circles and what the allocator keeps of freed memory go first: both come and go.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):  # glibc's
        trim(0)
    lines = Path('/proc/self/status').read_text().splitlines()
    status = dict(line.split(':', 1) for line in lines)
    return dict(
        memory_mb=int(status['RssAnon'].split()[0]) * 1024 / 1e6,
        files=len(os.listdir('/proc/self/fd')),
        threads=int(status['Threads']),
        children=len(family(os.getpid())) - 1,
    )


def files_of(work_dir: Path) -> dict[str, list[int]]:
    """Bytes of every file, by what it is."""
    found: dict[str, list[int]] = {}
    for path in work_dir.rglob('*'):
        kind = {'.log': 'log', '.png': 'pictures', '.pth': 'checkpoints'}.get(path.suffix, 'other')
        kind = 'scalars' if path.name == 'scalars.json' else kind
        if path.is_file():
            found.setdefault(kind, []).append(path.stat().st_size)
    return found


def trend(iterations: Sequence[int], values: Sequence[float], counts: float) -> dict:
    """Start, end, slope per 1,000 iterations with its standard error, and the verdict."""
    x, y = (np.array(each[WARM_UP:], float) for each in (iterations, values))
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    error = float(np.sqrt(max(covariance[0, 0], 0.0)))
    grows = slope > 3 * error and slope * (x[-1] - x[0]) > counts
    thousand = dict(slope=round(1e3 * float(slope), 4), error=round(1e3 * error, 4))
    ends = dict(start=float(y[0]), end=float(y[-1]))
    return dict(**ends, **thousand, counts=round(counts, 3), grows=bool(grows))


def config_of(kind: str, iterations: int, folder: Path) -> tuple[Config, list[str]]:
    """The kind's config with validation, a checkpoint and new workers every window."""
    window, (file, options) = iterations // WINDOWS, KINDS[kind]
    write_scenes(folder / 'scenes', num_train=BATCH * window, num_val=4, size=64)
    root = f'{folder / "scenes"}/'
    options = options | {
        'model.backbone.arch': _ARCH | dict(_delete_=True),
        'experiment_name': f'{folder.name}-{kind}',
        'default_hooks.logger.interval': max(window // 5, 1),
        'default_hooks.checkpoint': dict(by_epoch=False, interval=window, max_keep_ckpts=2),
        'train_dataloader.batch_size': BATCH,
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 1,
    }
    options |= {f'{split}_dataloader.dataset.data_root': root for split in ('train', 'val', 'test')}
    if kind == 'mirl':
        options |= {'train_cfg.max_epochs': WINDOWS, 'param_scheduler': []}
    else:
        options |= {'train_cfg.max_iters': iterations, 'train_cfg.val_interval': window}
    if kind == 'mask-rcnn':
        annotations = f'{root}annotations/instances_val.json'
        options |= {f'{split}_evaluator.ann_file': annotations for split in ('val', 'test')}
    config = str(ROOT / 'configs' / file)
    return training_config(config, str(folder / kind), cfg_options=options)


def grow(kind: str, iterations: int, folder: Path, *hooks: Hook) -> dict:
    """Train in this process, with more hooks if given; windows, trends and the work dir's files."""
    torch.set_num_threads(1)
    cfg, notes = config_of(kind, iterations, folder)
    runner, growth = build_runner(cfg, notes), Growth(iterations // WINDOWS)
    for hook in (*hooks, growth):
        runner.register_hook(hook, priority='LOWEST')
    started = time.perf_counter()
    runner.train()
    windows = growth.windows
    series = {name: [each[name] for each in windows] for name in ('iteration', *COUNTS)}
    counts = COUNTS | dict(step_ms=STEP_SHARE * series['step_ms'][WARM_UP])
    steps = series.pop('iteration')
    files = {n: dict(files=len(f), bytes=sum(f)) for n, f in files_of(folder / kind).items()}
    return dict(
        seconds=round(time.perf_counter() - started, 1),
        trends={name: trend(steps, each, counts[name]) for name, each in series.items()},
        files=files,
        log_lines=sum(1 for _ in next((folder / kind).glob('*/vis_data/scalars.json')).open()),
        windows=windows,
    )


def histories() -> dict[str, dict]:
    """What one logged scalar costs by the length of its history: an update, and in checkpoints."""
    found = {}
    for length in LENGTHS:
        buffer = HistoryBuffer([0.5] * length, [1] * length, max_length=length)
        started = time.process_time()
        for _ in range(100):
            buffer.update(0.5)
        spent = (time.process_time() - started) / 100
        stored = sum(each.nbytes for each in buffer.data)
        found[f'{length:,}'] = dict(update_us=round(1e6 * spent, 1), checkpoint_bytes=stored)
    return found


def in_its_own_process(work: Callable, *arguments: object) -> dict:
    """What a function returns, called in a fresh process that does not outlive this one."""
    with ProcessPoolExecutor(1, get_context('spawn'), initializer=end_with_parent) as process:
        return process.submit(work, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description='What grows over hours of training.')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=[*KINDS])
    parser.add_argument('--iterations', type=int, default=5000)
    add_out(parser)
    args = parser.parse_args()
    if args.iterations < WINDOWS or args.iterations % WINDOWS:
        parser.error(f'--iterations must be a multiple of {WINDOWS}, got {args.iterations}')
    runs = {}
    with tempfile.TemporaryDirectory(prefix='growth-') as folder:
        for kind in args.kinds:
            runs[kind] = in_its_own_process(grow, kind, args.iterations, Path(folder))
            for name, found in runs[kind]['trends'].items():
                said = 'GROWS' if found['grows'] else 'no growth beyond noise'
                per = f'{found["slope"]:+.3f} ± {found["error"]:.3f} per 1,000 iterations'
                print(f'{kind} {name}: {found["start"]} to {found["end"]}, {per}: {said}')
    save(args, dict(runs=runs, histories=histories()))


if __name__ == '__main__':
    main()
