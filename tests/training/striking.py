"""A fault at a given iteration of a run, once."""

import os
import signal
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Strike(Hook):
    """SIGKILL to the process of a rank, or to its launcher, unless the file is there, which is
    written then."""

    def __init__(self, file: str, rank: int, iteration: int, launcher: bool = False) -> None:
        self.file, self.rank, self.iteration, self.launcher = Path(file), rank, iteration, launcher

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == self.rank and runner.iter == self.iteration and not self.file.exists():
            self.file.touch()
            os.kill(os.getppid() if self.launcher else os.getpid(), signal.SIGKILL)
