"""How far a run has come: one live line on a terminal, plain lines elsewhere."""

import atexit
import logging
import resource
import sys
import time
from contextlib import ExitStack
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

    A terminal gets one live line that fits its width, in validation and testing too; elsewhere
    there are plain lines, ``lines`` over the whole run and at least one in ten minutes. The loss is
    read (which waits for the device) only when something is shown, at most twice a second. Writes
    to the standard output of the moment it is built.
    """

    priority = 'VERY_LOW'  # before IterTimerHook: reading the loss is no waiting for data

    def __init__(self, lines: int = 20) -> None:
        if lines < 1:
            raise UserError(f'lines must be at least 1, got {lines}')
        self.lines, self.stream = lines, sys.stdout
        self.live: Live | None = None
        self.closing = ExitStack()

    def before_train(self, runner: Runner) -> None:
        self.first, self.started = runner.iter, time.perf_counter()
        self._open(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, outputs: dict, **_) -> None:
        done, total = runner.iter + 1, runner.max_iters
        if is_main_process() and self._due(done, total):
            timed = runner.iter - self.first
            pace = (time.perf_counter() - self.started) / (timed + 1)  # with validation
            fields = training_fields(runner, outputs, timed, pace * (total - done))
            where = f'iteration {done}/{total}'
            if isinstance(loop := runner.train_loop, EpochBasedTrainLoop):
                where = f'epoch {runner.epoch + 1}/{loop.max_epochs}'
                where += f'  {batch_idx + 1}/{len(runner.train_dataloader)}'
            self._show(where, fields, done, total)

    def _after_iter(self, runner: Runner, batch_idx: int, mode: str, **_) -> None:
        """Of validation and testing."""
        done, total = batch_idx + 1, len(getattr(runner, f'{mode}_dataloader'))
        if self.live is not None and self._due(done, total):
            self._show(dict(val='validation', test='testing')[mode], [], done, total)

    def _open(self, runner: Runner) -> None:
        """Start the live line; log messages go above it from now on."""
        self.shown = time.perf_counter()
        if self.live is not None or not is_main_process() or not self.stream.isatty():
            return
        console = Console(file=self.stream)
        # No thread that refreshes: a data loader may fork its workers at any time.
        live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self.live = self.closing.enter_context(live)
        atexit.register(self._close)  # an error must not leave the cursor hidden
        self.closing.callback(atexit.unregister, self._close)
        proxy = FileProxy(console, self.stream)
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream is self.stream:
                handler.setStream(proxy)
                self.closing.callback(handler.setStream, self.stream)

    def _close(self, *_: object) -> None:
        self.closing.close()
        self.live = None

    before_test, after_train, after_test = _open, _close, _close

    def _show(self, where: str, fields: list[str], done: int, total: int) -> None:
        if self.live is None:
            return print(f'  {where}  {"  ".join(fields)}', file=self.stream, flush=True)
        line = one_line(where, fields, done, total, self.live.console)
        self.live.update(line, refresh=True)

    def _due(self, done: int, total: int) -> bool:
        """Twice a second on a terminal, else by lines; always at the end."""
        now, silence = time.perf_counter(), PLAIN_SECONDS if self.live is None else SECONDS
        regular = self.live is None and done % max(total // self.lines, 1) == 0
        due = regular or now - self.shown >= silence
        self.shown = now if due else self.shown
        return due or done == total


def one_line(where: str, fields: list[str], done: int, total: int, console: Console) -> Text:
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


def training_fields(runner: Runner, outputs: dict, timed: int, left: float) -> list[str]:
    """The most important first. Images per second are those of all processes; they and the time
    in which training waited for data need IterTimerHook, ``timed`` iterations since the start.
    """
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    else:  # of this process: KiB on Linux, bytes on macOS
        unit = 1 if sys.platform == 'darwin' else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    hub = runner.message_hub
    known = get_world_size() > 1 and 'train/loss' in hub.log_scalars  # the newest mean over them
    loss = hub.get_scalar('train/loss').current() if known else outputs['loss'].item()
    fields = [
        f'loss {loss:.4f}',
        f'left {duration(left)}',
        f'until {clock(datetime.now(), left)}',
        f'lr {max(group["lr"] for group in runner.optim_wrapper.param_groups):.2e}',
        f'{memory / 2**30:.1f} GiB',
    ]
    if timed and 'train/time' in runner.message_hub.log_scalars:
        seconds, waiting = recent(runner.message_hub, timed)
        images = batch_size(runner.train_dataloader) * get_world_size() / seconds
        fields.insert(3, f'{images:,.0f} images/s' if images >= 10 else f'{images:.1f} images/s')
        fields.insert(5, f'data {waiting:.0%}')
    return fields


def recent(hub: MessageHub, timed: int) -> tuple[float, float]:
    """IterTimerHook's seconds an iteration and share of waiting, over ``WINDOW`` or ``timed``."""
    times = hub.get_scalar('train/time').data[0][-timed:]
    waits = hub.get_scalar('train/data_time').data[0][-timed - 1 : -1]  # the last has no time yet
    count = int(np.searchsorted(np.cumsum(times[::-1]), WINDOW)) + 1
    seconds = max(times[-count:].mean(), 1e-9)
    return seconds, waits[-count:].mean() / seconds


def duration(seconds: float) -> str:
    """Such as 0:42, 3:07:42 or 2 d 3:07."""
    days, rest = divmod(round(seconds), 86400)
    text = str(timedelta(seconds=rest))  # 0:00:42
    return f'{days} d {text[:-3]}' if days else text.removeprefix('0:').removeprefix('0')


def clock(now: datetime, seconds: float) -> str:
    """The local time in so many seconds, with the day where it is not today's."""
    end = now + timedelta(seconds=seconds)
    days = (end.date() - now.date()).days
    return f'{end:%H:%M}' if not days else f'{end:%a %H:%M}' if days < 7 else f'{end:%d %b %H:%M}'
