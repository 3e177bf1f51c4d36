"""A runner that keeps the terminal readable; its log file has everything."""

import logging
from importlib.util import find_spec

from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from mirl_mm.errors import UserError

from .copies import copy_ahead
from .zero import gathered_state

OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
"""MMEngine's names in ``default_hooks``; it adds these by itself."""

FOR_TERMINAL = {'for_terminal': True}
"""Pass as ``extra`` to a logger call whose message belongs on a terse terminal."""

# A line for every frozen parameter; MMEngine's own use of what it has deprecated; a metric of
# MMSegmentation's own config without a prefix.
NOISE = (
    'is skipped since its requires_grad',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
)

# What MMEngine's backends import when the first value comes, after everything has been built.
PACKAGES = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}


def belongs_on_terminal(record: logging.LogRecord) -> bool:
    """Warnings and marked messages; not what MMEngine warns itself of, nor frozen parameters."""
    if any(part in str(record.msg) for part in NOISE):
        return False
    return record.levelno >= logging.WARNING or getattr(record, 'for_terminal', False)


@RUNNERS.register_module()
class TerseRunner(Runner):
    """MMEngine's Runner without its thousands of start-up lines on the terminal.

    Any hook of ``default_hooks`` can be switched off with None (MMEngine's Runner accepts this for
    its own names alone). Processes end together: the first may hold what the others are still
    talking to. Batches are copied without a wait, and what waits to be read is read before a
    checkpoint.
    """

    def train(self) -> nn.Module:
        model = super().train()
        barrier()
        return model

    def test(self) -> dict:
        metrics = super().test()
        barrier()
        return metrics

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:  # a FileHandler is a subclass
                handler.addFilter(belongs_on_terminal)
        return logger

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        built = super().build_model(model)
        copy_ahead(built.data_preprocessor)
        return built

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        check_packages(visualizer)
        return super().build_visualizer(visualizer)

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        kept = {n: hook for n, hook in (hooks or {}).items() if hook is not None or n in OWN_HOOKS}
        super().register_default_hooks(kept)

    def save_checkpoint(self, *args, **kwargs) -> None:
        self.call_hook('settle')
        with gathered_state(self.optim_wrapper):
            super().save_checkpoint(*args, **kwargs)


def check_packages(visualizer: Visualizer | dict | None) -> None:
    """Raise a ValueError for a backend whose package is not installed."""
    backends = visualizer.get('vis_backends') if isinstance(visualizer, dict) else None
    for backend in backends or ():
        kind = backend.get('type') if isinstance(backend, dict) else None
        package = PACKAGES.get(kind)
        if package and find_spec(package) is None:
            raise UserError(
                f'visualizer.vis_backends names {kind}, which needs the package {package}: '
                f'pip install {package}, or leave the backend out'
            )
