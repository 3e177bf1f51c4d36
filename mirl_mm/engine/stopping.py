"""How a run stops: by SIGTERM, in all of its processes and their loader workers, or by an error.

A scheduler sends SIGTERM to every process of a job. Those that train finish their step, save and
exit with 0; their workers outlive it, as torch would count a worker's end as a failure before the
run has saved. How far that is, a run and its workers read in one shared number.
"""

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from mirl_mm.errors import UserError, reason_of

from .runner import FOR_TERMINAL

RUNNING, ASKED, ENDED = 0, 1, 2  # a run as its workers see it; ASKED: by SIGTERM to stop


def start_worker(init: Callable | None, stopping: Tensor, worker: int) -> None:
    """A DataLoader's ``worker_init_fn``: the given one, and a worker that outlives SIGTERM."""
    if init is not None:
        init(worker)
    signal.signal(signal.SIGTERM, partial(_outlive, stopping))
    end_with_parent(signal.SIGKILL)  # (one that holds a large batch would outlive a killed run)


def _outlive(stopping: Tensor, *_: object) -> None:
    """A SIGTERM that the parent sends by itself, at its end, is obeyed."""
    end = time.monotonic() + 1.0  # seconds to learn whether the parent was asked to stop, too
    while time.monotonic() < end and stopping.item() != ENDED:
        if stopping.item() == ASKED:
            return
        time.sleep(0.01)
    os._exit(0)


@HOOKS.register_module()
class PreemptHook(Hook):
    """On SIGTERM, all processes finish the same step, save a checkpoint and exit with 0.

    A validation that is under way ends first. What a process was asked is told to the others by a
    small all-reduce on the CPU beside every step (its own gloo group); it is read one step later,
    so that nobody waits for it. ``signals`` are names, as in ('SIGTERM', 'SIGUSR1').
    """

    priority = 'LOWEST'  # behind the checkpoint hook and all that belongs to the iteration

    def __init__(self, signals: Sequence[str] = ('SIGTERM',)) -> None:
        if not signals or set(signals) - signal.Signals.__members__.keys():
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

    def after_train_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        if not self._all_stop():
            return
        hook = next((hook for hook in runner.hooks if hasattr(hook, 'save_now')), None)
        path = hook and hook.save_now(runner)
        if self.group is not None:
            dist.barrier(self.group)  # nobody leaves before the first process has saved
        lost = 'could be saved' if hook else 'is saved without a SafeCheckpointHook'
        saved = f'saved {path}; continue with --resume' if path else f'nothing {lost}'
        after = f'after {runner.iter + 1} of {runner.max_iters} iterations'
        runner.logger.warning(f'{self.asked or "a signal"} {after}: {saved}', extra=FOR_TERMINAL)
        self.after_train(runner)
        raise SystemExit(0 if path or hook is None else 1)

    def after_train(self, runner: Runner) -> None:
        for one, former in self.former.items():
            signal.signal(one, former or signal.SIG_DFL)
        self._told()
        self.group = None  # else it would outlive ``leave_group``

    def _note(self, number: int, frame: object) -> None:
        self.asked = signal.Signals(number).name
        self.stopping.fill_(ASKED)  # loader workers, which may get the signal too, live on

    def _all_stop(self) -> bool:
        """Whether any process was asked, decided alike and at the same step on all."""
        if self.group is None:
            return self.asked is not None
        stop, flag = self._told(), torch.tensor([int(self.asked is not None)])
        self.pending = dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True), flag
        return stop

    def _told(self) -> bool:
        """What the step before asked of the others, if it did."""
        if self.pending is None:
            return False
        (work, flag), self.pending = self.pending, None
        work.wait()
        return bool(flag.item())


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent has died (on Linux)."""
    if sys.platform == 'linux':
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def follow_launcher() -> list[str]:
    """End with torchrun, where it started this process, however it dies (on Linux).

    The kernel sends SIGKILL; where tools/torchrun.py is not between, SIGTERM, on which a run saves:
    the scheduler's SIGTERM may have been what ended torchrun. UserError: it has died already.

    Returns:
        What the log should say of a start that is not the first.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return []
    launcher = os.environ.get('MIRL_LAUNCHER')
    end_with_parent(signal.SIGKILL if launcher else signal.SIGTERM)
    if launcher and os.getppid() != int(launcher):
        raise UserError(f'torchrun, process {launcher}, has died: its processes end')
    restarts = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    return [f'restart {restarts} by torchrun'] if restarts != '0' else []


def leave_group() -> None:
    """Leave the process group, if there is one, together with the others; in an error, do nothing.

    Threads of gloo let go of tensors, for which they need the interpreter: one that asks while it
    is taken down aborts a process whose work is done. They end with the group, and that with its
    last holder: the runner has to be out of reach. (A SystemExit's frames hold it, too.)
    """
    kind, _, trace = sys.exc_info()
    if not dist.is_initialized() or kind not in (None, SystemExit):
        return
    if kind is None:  # the first may hold what the others are still talking to; cf. PreemptHook
        dist.barrier()
    traceback.clear_frames(trace)
    gc.collect()  # now: a DDP that let go last would wait for threads that wait for it
    dist.destroy_process_group()


def fail_fast() -> None:
    """End this process at once on an uncaught exception, without waiting for the others.

    An orderly end could hang: it waits for loader workers, and for a process group whose other
    members wait for us. The launcher sees the exit code and ends the others.
    """
    sys.excepthook = report_and_exit


def report_and_exit(kind: type, error: BaseException, trace: object) -> None:
    """One line for what a user can put right, a traceback for everything else."""
    who = f'process {os.environ.get("RANK", "?")} of {os.environ.get("WORLD_SIZE", "?")}'
    if reason := reason_of(error):
        text = f'{who}: error: {reason}\n'
    else:
        text = f'\n{who} failed:\n{"".join(traceback.format_exception(error))}\n'
    sys.stdout.flush()
    # (torch's own hook for distributed runs, which calls this one, holds sys.stderr back)
    print(text, end='', file=sys.__stderr__ or sys.stderr, flush=True)
    if isinstance(error, Exception):
        get_error_handler().record_exception(error)  # torchrun's summary names it
    os._exit(1)
