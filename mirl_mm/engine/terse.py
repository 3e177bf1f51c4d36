"""A runner that keeps the terminal readable; its log file has everything."""

import logging

from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

FOR_TERMINAL = {'for_terminal': True}
"""Pass as ``extra`` to a logger call whose message belongs on a terse terminal."""


def belongs_on_terminal(record: logging.LogRecord) -> bool:
    """Warnings and marked messages; not MMEngine's warning for every frozen parameter."""
    if 'is skipped since its requires_grad' in str(record.msg):
        return False
    return record.levelno >= logging.WARNING or getattr(record, 'for_terminal', False)


@RUNNERS.register_module()
class TerseRunner(Runner):
    """MMEngine's Runner without its thousands of start-up lines on the terminal."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:  # a FileHandler is a subclass
                handler.addFilter(belongs_on_terminal)
        return logger
