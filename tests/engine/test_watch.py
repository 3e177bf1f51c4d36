"""Who has not answered: decided by looks, not by clocks, and told by name."""

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from mirl_mm.engine.hooks import watch
from mirl_mm.engine.hooks.watch import LEFT, WatchHook
from mirl_mm.errors import UserError

HERE = f'{socket.gethostname()}, pid {os.getpid()}'
WHY = 'for 5 s (frozen, its machine lost, or the network cut): this job ends; --resume auto goes on'


def watchers(size: int, timeout: float = 5) -> list[WatchHook]:
    """Of a job's processes, all in this one; no threads."""
    store, hooks = dist.HashStore(), [WatchHook(timeout) for _ in range(size)]
    for rank, hook in enumerate(hooks):
        hook.host, hook.port = 'node-a', 29500
        hook.begin(store, rank, size)
    return hooks


def looks(hook: WatchHook, beating: list[WatchHook], number: int) -> list[str | None]:
    """What a process says at each of some looks; between them, others beat."""
    said = []
    for _ in range(number):
        for each in beating:
            each.beat()
        try:
            said.append(hook.look())
        except UserError as error:
            said.append(str(error))
    return said


def told(hook: WatchHook, beating: list[WatchHook]) -> str:
    """What it says in the end: after 10 looks without a beat, as one timeout has."""
    said = looks(hook, beating, 12)
    assert said[:9] == [None] * 9 and said[11]
    return said[11]


def test_the_first_process_names_the_one_that_is_silent():
    first, second, third = hooks = watchers(3)
    assert looks(first, hooks, 30) == [None] * 30
    assert told(first, [first, third]) == f'process 1 of 3 ({HERE}) has not answered {WHY}'
    assert looks(first, [second, *hooks], 5) == [None] * 5  # it was slow, and is there again
    both = f'process 1 of 3 ({HERE}), process 2 of 3 ({HERE}) have not answered'
    assert told(first, [first]) == f'{both} {WHY}'


def test_the_others_watch_the_first():
    hooks = watchers(3)
    assert looks(hooks[2], hooks, 5) == [None] * 5
    assert told(hooks[2], hooks[1:]) == f'process 0 of 3 ({HERE}) has not answered {WHY}'


def test_a_store_that_hangs_is_named_alone():
    first, second = hooks = watchers(2)
    looks(first, hooks, 3), looks(second, hooks, 3)
    looks(second, [second], 2)  # not heard for a moment, which is not why
    place = f"the store at node-a:29500 (process 0's machine: {HERE})"
    for hook in hooks:
        assert told(hook, []) == f'{place} has not answered {WHY}'  # no beat returns


def test_who_has_left_or_not_begun_is_not_silent():
    first, second, third = watchers(3)
    looks(first, [first, second], 3)
    first.store.add('beats/1', LEFT)
    assert looks(first, [first], 100) == [None] * 100
    looks(first, [third, first], 3)
    assert told(first, [first]) == f'process 2 of 3 ({HERE}) has not answered {WHY}'


@pytest.fixture
def ends(monkeypatch):
    """A job of two processes in this one: how its processes end, of which this is the first."""
    ended = []
    master = dist.TCPStore('127.0.0.1', 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', str(master.port))
    monkeypatch.setattr(watch, 'get_world_size', lambda: 2)
    monkeypatch.setattr(watch, 'STARTS', iter([0, 0, 1, 1]))  # each process counts its own

    def start(rank: int, timeout: float) -> WatchHook:
        monkeypatch.setattr(watch, 'get_rank', lambda: rank)
        hook, log = WatchHook(timeout), SimpleNamespace(info=lambda text: ended.append(text))
        hook.before_run(SimpleNamespace(logger=log))
        return hook

    def report(kind: type, error: Exception, _: None) -> None:
        ended.append((kind, error))

    monkeypatch.setattr(watch, 'report_and_exit', report)
    yield SimpleNamespace(start=start, ended=ended, master=master)
    assert not [thread for thread in threading.enumerate() if '_talk' in thread.name]


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_threads_see_one_that_stops_and_end_in_order(ends):
    first, second = ends.start(0, 0.5), ends.start(1, 0.5)
    threads = first.threads + second.threads
    assert len(threads) == 4 and all(thread.daemon for thread in threads)
    first.threads[1].join(1.0)  # twice the timeout
    assert ends.ended == [] and first.threads[1].is_alive()
    frozen = threading.Event()
    second.beat, second.look = frozen.wait, lambda: None
    first.threads[1].join(3)
    assert not first.threads[1].is_alive()
    said = f'process 1 of 2 ({HERE}) has not answered {WHY.replace("for 5 s", "for 0.5 s")}'
    logged, (kind, shown) = ends.ended
    assert logged == str(shown) == said and kind is UserError
    frozen.set()
    first.after_run(None), second.after_run(None)


def test_an_orderly_end_is_told_and_raises_no_alarm(ends):
    first, second = ends.start(0, 0.5), ends.start(1, 0.5)
    threads = first.threads + second.threads
    wait_until(lambda: first.beats[1] and second.beats[0])
    second.flush(None)
    second.after_run(None)  # once more
    first.threads[1].join(1.5)
    assert first.threads[1].is_alive() and ends.ended == []
    assert first.beats[1] < 0
    first.after_run(None)
    assert not any(thread.is_alive() for thread in threads)
    again, other = ends.start(0, 0.5), ends.start(1, 0.5)  # tested behind the training, say
    wait_until(lambda: again.beats[1])
    assert again.heard[1] < math.inf
    again.after_run(None), other.after_run(None)


def test_beats_of_before_a_restart_do_not_count(ends, monkeypatch):
    monkeypatch.setattr(watch, 'STARTS', iter([0, 0, 0, 0]))  # of processes started anew
    for restart in ('0', '1'):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restart)
        first, second = ends.start(0, 0.5), ends.start(1, 0.5)
        wait_until(lambda hook=first: hook.beats[1])
        assert 0 < first.beats[1] < 10 and first.heard[1] < math.inf
        second.after_run(None), first.after_run(None)


def test_one_process_watches_nobody():
    hook = WatchHook()
    hook.before_run(None)
    assert hook.threads == [] and hook.after_run(None) is None


def test_without_a_store_there_is_a_warning(monkeypatch):
    monkeypatch.setattr(watch, 'get_world_size', lambda: 2)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    warnings = []
    hook = WatchHook()
    hook.before_run(SimpleNamespace(logger=SimpleNamespace(warning=warnings.append)))
    assert warnings == ['processes are not watched: MASTER_ADDR is not set']
    assert hook.threads == []


@pytest.mark.parametrize('timeout', [0, -1, math.nan, math.inf, True, '300', None])
def test_a_timeout_is_a_positive_number(timeout):
    with pytest.raises(UserError, match=r'^timeout must be a positive number of seconds, got '):
        WatchHook(timeout)
