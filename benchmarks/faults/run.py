"""A training run small enough to be killed many times, with everything that has a state."""

import gc
import os
import sys
import time
from functools import cache
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.errors import one_line
from mirl_mm.models.segments import unwrapped

ROOT = Path(__file__).parents[2]
IMAGES, BATCH, ACCUMULATION, INTERVAL, ITERATIONS = 40, 4, 3, 4, 30
ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
SLOW_DISK = 'FAULTS_SLOW_DISK'  # seconds that every fsync takes longer
NAN = 'FAULTS_NAN'  # 'rank,block,iteration' where a NaN is to appear
CLOCK = 'FAULTS_CLOCK'  # 'iteration,seconds': by which the clock jumps there
ERROR = 'FAULTS_ERROR'  # 'rank,iteration' where an exception is to be raised


def write_images(folder: Path, bad_share: float = 0.0, count: int = IMAGES, seed: int = 0) -> Path:
    """Noise of 24 px, the first ``bad_share`` of it cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f'{i:04d}.png'
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
        if i < bad_share * count:
            path.write_bytes(path.read_bytes()[:100])
    return folder


def small_config(
    images: Path, processes: int = 1, by_epoch: bool = True, workers: int = 1, **options: object
) -> Config:
    """Three passes of 10 iterations; groups of 3 micro-batches reach over their ends.

    Checkpoints come every 4 iterations, so in the middle of epochs and of groups. There are masks,
    drop paths, random crops, averaged weights, a schedule, and validation that picks a best one.

    Args:
        images: folder.
        processes: among which the batch of 4 is divided.
        by_epoch: the kind of loop.
        workers: of the loader.
        **options: dotted keys to merge at the end, with ``__`` for dots.
    """
    pipeline = [
        dict(type='LoadAnyImage'),
        dict(type='RandomResizedCrop', scale=16, backend='pillow'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    fixed = [
        dict(type='LoadAnyImage'),
        dict(type='Resize', scale=(16, 16)),
        dict(type='PackInputs'),
    ]
    shared = dict(collate_fn=dict(type='default_collate'), num_workers=workers)
    if workers:
        shared['persistent_workers'] = True
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    cfg = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    cfg.merge_from_dict(
        dict(
            model=dict(
                type='MIRL',
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3
                ),
                backbone=dict(
                    type='MIRLViT',
                    arch=ARCH,
                    img_size=16,
                    patch_size=4,
                    num_segments=2,
                    drop_path_rate=0.2,
                ),
                neck=dict(
                    type='MIRLNeck',
                    embed_dim=16,
                    num_segments=2,
                    decoder_embed_dim=8,
                    decoder_depth=1,
                    decoder_num_heads=1,
                    patch_size=4,
                ),
                head=dict(type='MIRLHead', patch_size=4),
            ),
            train_dataloader=dict(
                batch_size=BATCH // processes,
                sampler=dict(type=sampler, shuffle=True),
                dataset=dict(type='UnlabelledImages', data_root=str(images), pipeline=pipeline),
                **shared,
            ),
            val_dataloader=dict(
                batch_size=5,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='UnlabelledImages', data_root=str(images), indices=10, pipeline=fixed
                ),
                collate_fn=dict(type='default_collate'),
                num_workers=0,
            ),
            val_evaluator=dict(type='ReconstructionError'),
            val_cfg=dict(),
            optim_wrapper=dict(
                type='OptimWrapper',
                accumulative_counts=ACCUMULATION,
                optimizer=dict(type='AdamW', lr=2e-2, weight_decay=0.05, fused=True),
                constructor='MergedOptimWrapperConstructor',
                paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
                dict(type='CosineAnnealingLR', by_epoch=False, begin=6, end=30, T_max=24),
            ],
            train_cfg=dict(type='ExactEpochLoop', max_epochs=3, val_interval=1)
            if by_epoch
            else dict(type='ExactIterLoop', max_iters=ITERATIONS, val_interval=10),
            default_hooks=dict(
                logger=dict(interval=1),
                checkpoint=dict(
                    by_epoch=False,
                    interval=INTERVAL,
                    max_keep_ckpts=2,
                    save_best='recon/error',
                    rule='less',
                ),
            ),
            custom_hooks=[
                dict(type='EMAHook', momentum=0.1, interval=ACCUMULATION),
                dict(type='ExportEncoderHook'),
            ],
            log_processor=dict(by_epoch=by_epoch),
            randomness=dict(seed=3, diff_rank_seed=True),
        )
    )
    for name in ('progress', 'summary', 'health', 'panel'):
        cfg.default_hooks.pop(name, None)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def train(config: Path, work_dir: Path, resume: str | None, launcher: str = 'none') -> int:
    """What tools/train.py does, in this process; returns its exit code."""
    torch.set_num_threads(1)
    if seconds := float(os.environ.get(SLOW_DISK, 0)):
        sync = os.fsync
        os.fsync = lambda descriptor: (time.sleep(seconds), sync(descriptor))

    def run() -> None:
        given = (str(config), str(work_dir), resume)
        runner = build_runner(*training_config(*given, launcher=launcher))
        _inject(runner)
        runner.train()

    try:
        one_line(run)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return int(isinstance(stop.code, str) or stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as at the end of a script
        return 1
    return 0


def _inject(runner: Runner) -> None:
    """Prepare what the environment asks for."""
    own = int(os.environ.get('RANK', 0))
    for name, inject in ((NAN, _inject_nan), (ERROR, _inject_error)):
        if name in os.environ:
            rank, *where = map(int, os.environ[name].split(','))
            if rank == own:
                inject(runner, *where)
    if CLOCK in os.environ:
        _inject_jump(runner, *map(int, os.environ[CLOCK].split(',')))


def _inject_nan(runner: Runner, block: int, iteration: int) -> None:
    """Spoil one value of a block's output in an iteration (counted from 1)."""

    def spoil(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if runner.iter + 1 == iteration and module.training:
            output = output.clone()
            output[0, 0, 0] = float('nan')
        return output

    unwrapped(runner.model).backbone.layers[block].register_forward_hook(spoil)


def _inject_error(runner: Runner, iteration: int) -> None:
    """Raise an exception in the forward pass of an iteration (counted from 1)."""

    def fail(*_: object) -> None:
        if runner.iter + 1 == iteration:
            raise ArithmeticError('an injected error')

    runner.model.register_forward_pre_hook(fail)


def _inject_jump(runner: Runner, iteration: int, seconds: int) -> None:
    """Set the clock forth or back in an iteration (counted from 1) and for good."""
    now, offset = time.time, [0]
    time.time = lambda: now() + offset[0]

    def jump(*_: object) -> None:
        if runner.iter + 1 == iteration:
            offset[0] = seconds

    runner.model.register_forward_pre_hook(jump)


def start(
    config: Path,
    work_dir: Path,
    resume: str | None = 'auto',
    processes: int = 1,
    port: int = 0,
    environ: dict[str, str] | None = None,
) -> list[int]:
    """Fork the processes of a run, each with a process group for itself and its workers.

    The parent has imported everything, which takes seconds, and computes nothing.

    Returns:
        Their process ids; the output goes to ``<work_dir>.<rank>.out``.
    """
    children = []
    _prepare()
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                out = os.open(f'{work_dir}.{rank}.out', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.environ.update(environ or {})
                if processes > 1:
                    os.environ.update(
                        RANK=str(rank),
                        LOCAL_RANK=str(rank),
                        WORLD_SIZE=str(processes),
                        LOCAL_WORLD_SIZE=str(processes),
                        MASTER_ADDR='127.0.0.1',
                        MASTER_PORT=str(port),
                    )
                code = train(config, work_dir, resume, 'pytorch' if processes > 1 else 'none')
                sys.stdout.flush()
            finally:
                os._exit(code)
        children.append(child)
    return children


@cache
def _prepare() -> None:
    """Make starting and saving cheap, in the parent: what is left out goes to logs alone."""
    mmengine.runner.runner.collect_env = dict  # asks compilers for their versions
    gc.freeze()  # what was imported is not looked through at every collection
