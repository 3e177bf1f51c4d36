"""A scheduler's signal: finish the step, save, leave with exit code 0."""

import signal
from collections.abc import Sequence

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.errors import UserError

from ..runner import FOR_TERMINAL
from ..seeding import ASKED
from .checkpoints import SafeCheckpointHook


class Preempted(SystemExit):
    """Ends a run that was asked to stop and has saved; the exit code is 0."""


@HOOKS.register_module()
class PreemptHook(Hook):
    """On SIGTERM, all processes finish the same step, save a checkpoint and exit with 0.

    A validation that is under way ends first. What a process was asked is told to the others by a
    small all-reduce on the CPU beside every step (its own gloo group); it is read one step later,
    so that nobody waits for it.

    Args:
        signals: names of the signals to obey, as in ('SIGTERM', 'SIGUSR1').

    Raises:
        ValueError: an unknown signal.
    """

    priority = 'LOWEST'  # behind the checkpoint hook and all that belongs to the iteration

    def __init__(self, signals: Sequence[str] = ('SIGTERM',)) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown or not signals:
            raise UserError(f'signals must be names such as SIGTERM or SIGUSR1, got {signals}')
        self.signals = [signal.Signals[name] for name in signals]
        self.asked: str | None = None
        self.group, self.pending = None, None

    def before_train(self, runner: Runner) -> None:
        self.asked = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend='gloo')
        self.stopping = getattr(runner.train_loop.dataloader, 'stopping', torch.zeros(1))
        self.former = {one: signal.signal(one, self._note) for one in self.signals}

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not self._all_stop():
            return
        hook = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        path = None if hook is None else hook.save_now(runner)
        if self.group is not None:
            dist.barrier(self.group)  # nobody leaves before the first process has saved
        saved = f'saved {path}; continue with --resume' if path else 'nothing could be saved'
        if hook is None:
            saved = 'nothing is saved without a SafeCheckpointHook'
        runner.logger.warning(
            f'{self.asked or "a signal"} after {runner.iter + 1} of {runner.max_iters} iterations: '
            f'{saved}',
            extra=FOR_TERMINAL,
        )
        self.after_train(runner)
        raise Preempted(0 if path or hook is None else 1)

    def after_train(self, runner: Runner) -> None:
        for one, former in self.former.items():
            signal.signal(one, former or signal.SIG_DFL)
        if self.pending is not None:
            self.pending[0].wait()
            self.pending = None

    def _note(self, number: int, frame: object) -> None:
        self.asked = signal.Signals(number).name
        self.stopping.fill_(ASKED)  # loader workers, which may get the signal too, live on

    def _all_stop(self) -> bool:
        """Whether any process was asked, decided alike and at the same step on all."""
        if self.group is None:
            return self.asked is not None
        stop = False
        if self.pending is not None:
            work, flag = self.pending
            work.wait()
            stop = bool(flag.item())
        flag = torch.tensor([int(self.asked is not None)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True)
        self.pending = (work, flag)
        return stop
