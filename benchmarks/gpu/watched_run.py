"""A real pre-training run on random pictures: what makes the host wait; does memory grow?"""

import tempfile
from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmarks.hooks_cost import on_random_pictures
from mirl_mm.engine.launch import build_runner

from .device import allocated, watched_waits
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
    quiet = dict(logger=dict(interval=steps), progress=dict(lines=1), panel=None)
    with tempfile.TemporaryDirectory() as folder:
        cfg = on_random_pictures(arch, batch, steps, folder, **quiet)
        runner = build_runner(cfg)
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
