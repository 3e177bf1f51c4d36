"""How far a run has come: one live line on a terminal, plain lines elsewhere."""

import sys
import time

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .run_summary import batch_size


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show iteration, loss, images per second and remaining time on the first process.

    Writes to the standard output of the moment it is built.

    Args:
        lines: Off a terminal, how many lines to print over the whole run.
    """

    priority = 'VERY_LOW'

    def __init__(self, lines: int = 20) -> None:
        if lines < 1:
            raise ValueError(f'lines must be at least 1, got {lines}')
        self.lines = lines
        self.stream = sys.stdout
        self.bar: Progress | None = None

    def before_train(self, runner: Runner) -> None:
        self.started, self.first = time.perf_counter(), runner.iter
        self.shown = 0.0
        if is_main_process() and self.stream.isatty():
            self.bar = Progress(
                TextColumn('training'),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn('{task.fields[status]}'),
                TimeElapsedColumn(),
                TextColumn('left'),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            self.task = self.bar.add_task(
                '', total=runner.max_iters, completed=runner.iter, status=''
            )
            self.bar.start()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        done = runner.iter + 1
        if not is_main_process() or not self._due(done, runner.max_iters):
            return
        spent = time.perf_counter() - self.started
        rate = (done - self.first) / spent  # iterations per second
        status = (
            f'loss {outputs["loss"].item():.4f}  '
            f'{rate * batch_size(runner.train_dataloader):.0f} images/s'
        )
        if self.bar is not None:
            self.bar.update(self.task, completed=done, status=status)
        else:
            left = (runner.max_iters - done) / rate
            print(
                f'  iteration {done}/{runner.max_iters}  {status}  '
                f'{spent:.0f} s passed, about {left:.0f} s left',
                file=self.stream,
                flush=True,
            )

    def after_train(self, runner: Runner) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _due(self, done: int, total: int) -> bool:
        """Twice a second on a terminal (reading the loss waits for the device), else by lines."""
        if done == total:
            return True
        if self.bar is None:
            return done % max(total // self.lines, 1) == 0
        now = time.perf_counter()
        if now - self.shown < 0.5:
            return False
        self.shown = now
        return True
