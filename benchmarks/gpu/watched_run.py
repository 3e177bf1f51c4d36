"""A real pre-training run on random pictures: what makes the host wait; does memory grow?"""

import tempfile
import time
from contextlib import ExitStack

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmarks.hooks_cost import RandomPictures
from mirl_mm.engine.adapt import has_accelerator, has_bfloat16, set_precision
from mirl_mm.engine.launch import build_runner

from .device import allocated, watched_waits
from .processes import ROOT
from .stage import Bench


class WatchHook(Hook):
    """Watch all that happens in some iterations, other hooks and the loader included.

    Args:
        device: of the run.
        first: iteration at whose beginning watching begins.
        count: iterations.
        early: iteration after which memory counts as settled.
    """

    priority = 'VERY_HIGH'

    def __init__(self, device: str, first: int, count: int, early: int) -> None:
        self.device, self.first, self.count, self.early = device, first, count, early
        self.waits, self.bytes = {}, {}
        self.stack = ExitStack()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if runner.iter == self.first:
            self.waits = self.stack.enter_context(watched_waits(self.device))
        if runner.iter == self.first + self.count:
            self.stack.close()
        if runner.iter in (self.early, runner.max_iters - 1):
            self.bytes[runner.iter] = allocated(self.device)

    def after_run(self, runner: Runner) -> None:
        self.stack.close()


def watch(bench: Bench, arch: str, batch: int, steps: int, watched: int) -> dict:
    """Waits by line in ``watched`` iterations without a log line; bytes early and at the end."""
    first = steps - watched - 4
    hook = WatchHook(bench.device, first, watched, min(20, first - 1))
    with tempfile.TemporaryDirectory() as folder:
        runner = build_runner(config(arch, batch, steps, folder))
        runner.register_hook(hook)
        runner.train()
    (early, before), (late, after) = hook.bytes.items()
    waits = dict(sorted(hook.waits.items(), key=lambda item: -item[1]))
    count = sum(waits.values())
    return dict(
        iterations=watched,
        waits=count,
        waits_by_line=waits,
        bytes={str(early + 1): before, str(late + 1): after},
        grown=after - before,
        says=f'the host waits {count / watched:g} times an iteration away from log lines '
        f'({len(waits)} lines of code); memory after {late + 1} iterations less that after '
        f'{early + 1}: {(after - before) / 1e6:+.1f} MB',
    )


def config(arch: str, batch: int, steps: int, folder: str) -> Config:
    """The shipped config on random pictures, with all of its hooks; logs at the end alone."""
    schedule = '2e' if arch == 'test' else '300e'
    cfg = Config.fromfile(ROOT / f'configs/mirl/vit-{arch}_{schedule}.py')
    cfg.merge_from_dict(
        dict(
            train_dataloader=dict(
                _delete_=True,
                batch_size=batch,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type=RandomPictures.__name__,
                    length=batch * steps,
                    size=cfg.model.backbone.img_size,
                ),
            ),
            train_cfg=dict(_delete_=True, type='ExactEpochLoop', max_epochs=1),
            default_hooks=dict(
                logger=dict(interval=steps),
                progress=dict(lines=1),
                panel=None,
                checkpoint=dict(type='SafeCheckpointHook', interval=-1, save_last=False),
            ),
            experiment_name=f'watched-{time.time_ns()}',
            work_dir=folder,
            launcher='none',
        )
    )
    unused = ('val_dataloader', 'val_evaluator', 'val_cfg', 'test_dataloader', 'test_evaluator',
              'test_cfg', 'param_scheduler', 'custom_hooks')  # fmt: skip
    for key in unused:
        cfg.pop(key, None)
    cfg.optim_wrapper.pop('accumulative_counts', None)
    set_precision(cfg, False, has_accelerator(), has_bfloat16())
    return cfg
