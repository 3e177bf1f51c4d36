"""A runner that keeps the terminal readable; its log file has everything."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
"""MMEngine's names in ``default_hooks``; it adds these by itself."""

FOR_TERMINAL = {'for_terminal': True}
"""Pass as ``extra`` to a logger call whose message belongs on a terse terminal."""

# A line for every frozen parameter; MMEngine's own use of what it has deprecated.
NOISE = (
    'is skipped since its requires_grad',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def belongs_on_terminal(record: logging.LogRecord) -> bool:
    """Warnings and marked messages; not what MMEngine warns itself of, nor frozen parameters."""
    if any(part in str(record.msg) for part in NOISE):
        return False
    return record.levelno >= logging.WARNING or getattr(record, 'for_terminal', False)


@RUNNERS.register_module()
class TerseRunner(Runner):
    """MMEngine's Runner without its thousands of start-up lines on the terminal.

    Any hook of ``default_hooks`` can be switched off with None (MMEngine's Runner accepts this for
    its own names alone).
    """

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:  # a FileHandler is a subclass
                handler.addFilter(belongs_on_terminal)
        return logger

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        kept = {n: hook for n, hook in (hooks or {}).items() if hook is not None or n in OWN_HOOKS}
        super().register_default_hooks(kept)
