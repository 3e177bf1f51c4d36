"""Whether the other processes of a job are alive, and which of them does not answer."""

import os
import socket
from contextlib import suppress
from itertools import count
from math import ceil, inf
from threading import Event, Thread

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.errors import UserError

from ..stopping import report_and_exit

BEATS, LONGEST = 10, 10.0  # beats in one timeout, and the most seconds between two of them
LEFT = -(2**62)  # what a process adds to its beats at an orderly end
STARTS = count()  # of runs in this process: each has its own beats


@HOOKS.register_module()
class WatchHook(Hook):
    """End the job, by name, where a process or the network has not answered for ``timeout`` s.

    Else all wait until ``env_cfg.dist_cfg.timeout``, and do not know for whom. A thread of each
    process counts beats in the job's store, over a connection of its own; the first process looks
    at all others, they at the first. A second thread counts looks without a beat (so that neither
    a clock that jumps nor a job that is suspended as a whole raises an alarm), says who is silent,
    and ends its process with code 1.

    Slow steps are no silence, calls that hold Python's lock are (hence minutes). What hangs alone,
    as a main thread in a dead network mount, or before the run is left to ``dist_cfg.timeout``.
    """

    priority = 'LOWEST'

    def __init__(self, timeout: float = 300) -> None:
        if type(timeout) not in (int, float) or not 0 < timeout < inf:
            raise UserError(f'timeout must be a positive number of seconds, got {timeout!r}')
        self.timeout, self.interval = timeout, min(timeout / BEATS, LONGEST)
        self.threads: list[Thread] = []

    def before_run(self, runner: Runner) -> None:
        if get_world_size() == 1:
            return
        if not {'MASTER_ADDR', 'MASTER_PORT'} <= os.environ.keys():  # they met by a file, say
            return runner.logger.warning('processes are not watched: MASTER_ADDR is not set')
        self.host, self.port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        store = dist.TCPStore(self.host, self.port, is_master=False, wait_for_workers=False)
        # A launcher's store outlives the processes that it starts again.
        job = [os.environ.get(f'TORCHELASTIC_{name}', '') for name in ('RUN_ID', 'RESTART_COUNT')]
        store = dist.PrefixStore(f'watch/{"/".join(job)}/{next(STARTS)}', store)
        self.begin(store, get_rank(), get_world_size())
        self.logger, self.ended = runner.logger, Event()
        self.threads = [Thread(target=f, daemon=True) for f in (self._talk, self._judge)]
        for thread in self.threads:
            thread.start()

    def begin(self, store: dist.Store, rank: int, size: int) -> None:
        """As process ``rank`` of ``size``, say in the store who that is."""
        self.store, self.rank, self.size = store, rank, size
        self.beats = dict.fromkeys(range(1, size) if rank == 0 else [0], 0)
        self.looks = self.answered = 0  # by now, and when the store last answered
        self.heard: dict[int, float] = {}  # rank: looks by its last beat
        self.names = {rank: f'{socket.gethostname()}, pid {os.getpid()}'}
        store.set(f'name/{rank}', self.names[rank])

    def beat(self) -> None:
        """Count one's own beats on, and look who else has."""
        self.store.add(f'beats/{self.rank}', 1)
        for rank, former in self.beats.items():
            beats = self.store.add(f'beats/{rank}', 0)  # (get waits for one that has not begun)
            if beats != former:
                self.names[rank] = self.names.get(rank) or self.store.get(f'name/{rank}').decode()
                self.beats[rank], self.heard[rank] = beats, inf if beats < 0 else self.looks
        self.answered = self.looks

    def look(self) -> None:
        """Look once, every ``interval`` s; UserError: who has been silent for too many looks."""
        self.looks += 1
        most = ceil(self.timeout / self.interval)
        silent = [rank for rank, last in list(self.heard.items()) if self.answered - last > most]
        who = [f'process {rank} of {self.size} ({self.names[rank]})' for rank in silent]
        if self.looks - self.answered > most:  # then nobody can be heard
            first = f"process 0's machine: {self.names.get(0, 'not known')}"
            who = [f'the store at {self.host}:{self.port} ({first})']
        if who:
            what = f'{"have" if who[1:] else "has"} not answered for {self.timeout:g} s'
            why = '(frozen, its machine lost, or the network cut)'
            raise UserError(f'{", ".join(who)} {what} {why}: this job ends; --resume auto goes on')

    def after_run(self, runner: Runner) -> None:
        """Say that this process has left, so that nobody takes it for a frozen one."""
        for thread in self.threads:
            self.ended.set()
            thread.join(self.interval)  # (a store that hangs must not hold up the end)

    flush = after_run  # the runner's end, whatever it is

    def _talk(self) -> None:
        with suppress(dist.DistError):  # the store is gone: the launcher or _judge ends the job
            self.beat()
            while not self.ended.wait(self.interval):
                self.beat()
            self.store.add(f'beats/{self.rank}', LEFT)

    def _judge(self) -> None:
        try:
            while not self.ended.wait(self.interval):
                self.look()
        except UserError as silence:
            log = Thread(target=self.logger.info, args=(str(silence),), daemon=True)
            log.start()  # (to a file, whose disk may hang)
            log.join(LONGEST)
            report_and_exit(UserError, silence, None)
