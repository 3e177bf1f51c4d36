"""Values stay on the device until it is time to look, losses among them.

Reading a value makes the host wait for the GPU, so values wait instead: until a log line, for at
most ``EVERY`` iterations, and never beyond a validation, a checkpoint or the end. Whoever is about
to use the run's state says ``runner.call_hook('settle')`` on all processes; twice costs nothing.
"""

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

EVERY = 50  # iterations
KEPT = 10_000  # values of a scalar: MMEngine copies all of them with every new one


class Late(Hook):
    """For hooks that ``keep`` what an iteration leaves on the device, and read it in ``settle``."""

    def after_train_iter(self, runner: Runner, batch_idx: int, outputs: dict, **_) -> None:
        self.keep(runner, outputs)
        done = runner.iter + 1
        if not until_log(runner, batch_idx) or done % EVERY == 0 or done == runner.max_iters:
            self.settle(runner)

    def before_val(self, runner: Runner) -> None:
        self.settle(runner)
        super().before_val(runner)

    def after_train(self, runner: Runner) -> None:
        self.settle(runner)
        super().after_train(runner)


def until_log(runner: Runner, batch_idx: int, interval: int | None = None) -> int:
    """Iterations after this one until LoggerHook's line; with an interval, until one of its own."""
    logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
    every = interval or getattr(logger, 'interval', 100)
    until, end = -(batch_idx + 1) % every, len(runner.train_dataloader) - batch_idx - 1
    short = len(runner.train_dataloader) <= every or not getattr(logger, 'ignore_last', True)
    return min(until, end) if short and end >= 0 else until


@HOOKS.register_module()
class LateLossesHook(Late, RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, but the model's outputs are read when it is time to look.

    The histories in the message hub are the same, with the mean over processes instead of the
    first one's losses; between looks they lack the newest iterations. They keep the newest
    ``KEPT`` values, or as many as a log line reads; with log_processor.custom_cfg, all.
    """

    def __init__(self) -> None:
        self.pending: dict[str, list[Tensor]] = {}

    def keep(self, runner: Runner, outputs: dict) -> None:
        for name, value in outputs.items():
            if isinstance(value, Tensor):  # a copy: a CUDA graph writes over its outputs
                self.pending.setdefault(name, []).append(value.detach().reshape(()).clone())
            else:
                runner.message_hub.update_scalar(f'train/{name}', value)

    def settle(self, runner: Runner) -> None:
        pending, self.pending = self.pending, {}
        losses = {}
        for name, values in pending.items():
            losses[name] = torch.stack(values).tolist()
        if get_world_size() > 1:
            found = all_gather_object(losses)  # (bears that a process lacks one)
            for name in losses:
                at = zip(*(each[name] for each in found if name in each), strict=False)
                losses[name] = [sum(values) / len(values) for values in at]
        for name, values in losses.items():
            for value in values:
                runner.message_hub.update_scalar(f'train/{name}', value)
        if not runner.log_processor.custom_cfg:
            validation = len(runner.val_dataloader) if runner.val_loop else 0
            for history in runner.message_hub.log_scalars.values():
                history.max_length = max(KEPT, runner.log_processor.window_size, validation)
