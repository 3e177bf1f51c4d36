"""How far a run has come: one live line on a terminal, plain lines elsewhere."""

import atexit
import logging
import resource
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.text import Text

from mirl_mm.errors import UserError

from ..run_facts import batch_size

SECONDS = 0.5  # between two pictures of the live line
WINDOW = 60.0  # seconds over which throughput and waiting are averaged
PLAIN_SECONDS = 600.0  # without a terminal, the longest silence


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show on the first process where the run is, how fast it goes and when it will be done.

    Epoch and iteration, loss, the largest learning rate, images per second of all processes and the
    share of time in which training waited for data (both with IterTimerHook alone), the largest
    memory so far (of the GPU, else of this process), time left and the clock time of the end. A
    terminal gets one live line that fits its width, in validation and testing too; elsewhere there
    are plain lines. The loss is read (which waits for the device) only when something is shown, at
    most twice a second. Writes to the standard output of the moment it is built.

    Args:
        lines: Without a terminal, how many lines to print over the whole run; at the latest there
            is one every ten minutes.
    """

    priority = 'VERY_LOW'  # before IterTimerHook: reading the loss is no waiting for data

    def __init__(self, lines: int = 20) -> None:
        if lines < 1:
            raise UserError(f'lines must be at least 1, got {lines}')
        self.lines = lines
        self.stream = sys.stdout
        self.live: Live | None = None
        self.handlers: list[logging.StreamHandler] = []

    # --- training ---------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        self.first = runner.iter
        self.started = self.shown = time.perf_counter()
        self._open(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, outputs: dict, **_) -> None:
        done, total = runner.iter + 1, runner.max_iters
        if is_main_process() and self._due(done, total):
            pace = (time.perf_counter() - self.started) / (done - self.first)  # with validation
            fields = training_fields(
                runner, outputs, runner.iter - self.first, pace * (total - done)
            )
            where = place(runner, batch_idx)
            if self.live is not None:
                self._draw(where, fields, done, total)
            else:
                print(f'  {where}  {"  ".join(fields)}', file=self.stream, flush=True)

    def after_train(self, runner: Runner) -> None:
        self._close()

    # --- validation and testing -------------------------------------------------------------------

    def after_val_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        self._evaluated('validation', batch_idx + 1, len(runner.val_dataloader))

    def before_test(self, runner: Runner) -> None:
        self.shown = time.perf_counter()
        self._open(runner)

    def after_test_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        self._evaluated('testing', batch_idx + 1, len(runner.test_dataloader))

    def after_test(self, runner: Runner) -> None:
        self._close()

    def _evaluated(self, where: str, done: int, total: int) -> None:
        if self.live is not None and self._due(done, total):
            self._draw(where, [], done, total)

    # --- the terminal -----------------------------------------------------------------------------

    def _open(self, runner: Runner) -> None:
        """Start the live line; log messages go above it from now on."""
        if self.live is not None or not is_main_process() or not self.stream.isatty():
            return
        console = Console(file=self.stream)
        # No thread that refreshes: a data loader may fork its workers at any time.
        self.live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self.live.start()
        atexit.register(self._close)  # an error must not leave the cursor hidden
        proxy = FileProxy(console, self.stream)
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream is self.stream:
                handler.setStream(proxy)
                self.handlers.append(handler)

    def _close(self) -> None:
        if self.live is None:
            return
        for handler in self.handlers:
            handler.setStream(self.stream)
        self.live.stop()
        self.live, self.handlers = None, []
        atexit.unregister(self._close)

    def _draw(self, where: str, fields: list[str], done: int, total: int) -> None:
        line = one_line(where, fields, done, total, self.live.console)
        self.live.update(line, refresh=True)

    def _due(self, done: int, total: int) -> bool:
        """Twice a second on a terminal, else by lines; always at the end."""
        now = time.perf_counter()
        if self.live is not None:
            due = now - self.shown >= SECONDS
        else:
            due = done % max(total // self.lines, 1) == 0 or now - self.shown >= PLAIN_SECONDS
        self.shown = now if due else self.shown
        return due or done == total


def one_line(where: str, fields: Sequence[str], done: int, total: int, console: Console) -> Text:
    """As wide as the terminal: fields that do not fit are left out, from the end."""
    room, shortest, share = console.width - 1, 8, done / max(total, 1)
    head, tail = f'{where} {share:4.0%} ', ''
    for field in fields:
        if len(head) + shortest + len(tail) + len(field) + 2 > room:
            break
        tail += f'  {field}'
    bar = min(max(room - len(head) - len(tail), 0), 40)
    full, stroke = round(bar * share), '-' if console.options.ascii_only else '━'
    bars = (stroke * full, 'green'), (stroke * (bar - full), 'bright_black')
    return Text.assemble((head, 'bold'), *bars, tail, no_wrap=True, overflow='crop')


def place(runner: Runner, batch_idx: int) -> str:
    """Epoch and iteration, counted from 1."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        inner = f'{batch_idx + 1}/{len(runner.train_dataloader)}'
        return f'epoch {runner.epoch + 1}/{loop.max_epochs}  {inner}'
    return f'iteration {runner.iter + 1}/{runner.max_iters}'


def training_fields(runner: Runner, outputs: dict, timed: int, left: float) -> list[str]:
    """What the line says, the most important first; ``timed`` iterations since the start."""
    fields = [
        f'loss {outputs["loss"].item():.4f}',
        f'left {duration(left)}',
        f'until {clock(datetime.now(), left)}',
        f'lr {max(group["lr"] for group in runner.optim_wrapper.param_groups):.2e}',
        memory(),
    ]
    if timed and 'train/time' in runner.message_hub.log_scalars:
        seconds, waiting = recent(runner.message_hub, timed)
        images = batch_size(runner.train_dataloader) * get_world_size() / seconds
        fields.insert(3, f'{images:,.0f} images/s' if images >= 10 else f'{images:.1f} images/s')
        fields.insert(5, f'data {waiting:.0%}')
    return fields


def recent(hub: MessageHub, timed: int) -> tuple[float, float]:
    """Seconds of an iteration and the share of waiting for data, as IterTimerHook has logged them.

    Over the last ``WINDOW`` seconds of training, but at most so many iterations.
    """
    times = hub.get_scalar('train/time').data[0][-timed:]
    waits = hub.get_scalar('train/data_time').data[0][-timed - 1 : -1]  # the last has no time yet
    count = int(np.searchsorted(np.cumsum(times[::-1]), WINDOW)) + 1
    seconds = max(times[-count:].mean(), 1e-9)
    return seconds, waits[-count:].mean() / seconds


def duration(seconds: float) -> str:
    """Such as 0:42, 3:07:42 or 2 d 3:07."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f'{days} d {hours}:{minutes:02}'
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def clock(now: datetime, seconds: float) -> str:
    """The local time in so many seconds, with the day where it is not today's."""
    end = now + timedelta(seconds=seconds)
    days = (end.date() - now.date()).days
    return f'{end:%H:%M}' if not days else f'{end:%a %H:%M}' if days < 7 else f'{end:%d %b %H:%M}'


def memory() -> str:
    """The most memory taken so far: by tensors on the GPU, else by this process."""
    if torch.cuda.is_available():
        return f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB'
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return f'{peak / (2**30 if sys.platform == "darwin" else 2**20):.1f} GiB'
