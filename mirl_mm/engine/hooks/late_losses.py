"""Losses stay on the device until somebody shows them."""

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..looks import due


@HOOKS.register_module()
class LateLossesHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, which reads the model's outputs when it is time to look.

    MMEngine reads each of them after every iteration. The histories in the message hub, and so log
    lines and checkpoints, are the same; between two looks they lack the newest iterations.
    """

    def __init__(self) -> None:
        self.pending: dict[str, list[Tensor]] = {}

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        for name, value in (outputs or {}).items():
            if isinstance(value, Tensor):  # a copy: a CUDA graph writes over its outputs
                self.pending.setdefault(name, []).append(value.detach().reshape(()).clone())
            else:
                runner.message_hub.update_scalar(f'train/{name}', value)
        if due(runner, batch_idx):
            self.settle(runner)

    def settle(self, runner: Runner) -> None:
        pending, self.pending = self.pending, {}
        for name, values in pending.items():
            for value in torch.stack(values).tolist():
                runner.message_hub.update_scalar(f'train/{name}', value)

    def before_val(self, runner: Runner) -> None:
        self.settle(runner)
        super().before_val(runner)

    def after_train(self, runner: Runner) -> None:
        self.settle(runner)
        super().after_train(runner)
