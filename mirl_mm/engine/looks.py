"""When a training run looks at what it keeps on the device.

Reading a value makes the host wait for all that it has given a GPU to do, so values wait instead:
until a log line, for at most ``EVERY`` iterations, and never beyond a validation, a checkpoint or
the end. Hooks that keep values have a method ``settle(runner)``, which reads them. Whoever is about
to use the run's state says ``runner.call_hook('settle')`` on all processes; to settle twice costs
nothing.
"""

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner

EVERY = 50  # iterations


def due(runner: Runner, batch_idx: int) -> bool:
    """Whether to look after this iteration."""
    done = runner.iter + 1
    return not until_log(runner, batch_idx) or done % EVERY == 0 or done == runner.max_iters


def until_log(runner: Runner, batch_idx: int, interval: int | None = None) -> int:
    """Iterations after this one until LoggerHook's line; with an interval, until one of its own."""
    logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
    every = interval or getattr(logger, 'interval', 100)
    until, end = -(batch_idx + 1) % every, len(runner.train_dataloader) - batch_idx - 1
    short = len(runner.train_dataloader) <= every or not getattr(logger, 'ignore_last', True)
    return min(until, end) if short and end >= 0 else until
