import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from mirl_mm.engine.stopping import fail_fast, follow_launcher
from mirl_mm.errors import CheckpointError, UserError
from tests.processes import in_clean_process


@pytest.fixture
def fail(monkeypatch, capfd):
    """Fails as an uncaught error in a process whose stderr torch holds back; what is written."""
    codes = []
    monkeypatch.setattr(os, '_exit', codes.append)
    monkeypatch.setattr('signal.signal', lambda *_: None)
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)  # put back at the end
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    fail_fast()

    def fail(error: Exception) -> str:
        try:
            raise error
        except type(error):
            sys.excepthook(*sys.exc_info())
        assert codes == [1]
        return capfd.readouterr().err

    return fail


def test_a_traceback_comes_at_once_also_where_stderr_is_held_back(fail):
    """As torch does around the hooks of distributed processes."""
    written = fail(ArithmeticError('of this process'))
    assert written.startswith('\nprocess 1 of 2 failed:\nTraceback (most recent call last):\n')
    assert written.endswith('ArithmeticError: of this process\n\n')


@pytest.mark.parametrize('error', [CheckpointError('is cut short'), OSError('is cut short')])
def test_what_a_user_can_put_right_is_one_line(fail, error):
    assert fail(error) == 'process 1 of 2: error: is cut short\n'


def launch(work: Callable[[int, int], None]) -> int:
    """Fork a launcher that forks a process; it does the work, with the launcher's process id.

    The launcher is killed once its process has written; returns how that ended, as wait() says it.
    """
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the process becomes ours to wait for
    (told, tells), launcher = os.pipe(), os.fork()
    if launcher == 0:
        os.environ['TORCHELASTIC_RUN_ID'] = 'none'
        own = os.getpid()
        if os.fork() == 0:
            work(own, tells)
            os._exit(7)
        time.sleep(60)
    os.read(told, 1)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return 0


def follow(launcher: int, tells: int) -> None:
    os.environ['MIRL_LAUNCHER'] = str(launcher)
    follow_launcher()
    os.write(tells, b'.')
    time.sleep(5)


def follow_another(launcher: int, tells: int) -> None:
    """torchrun alone; what it asks for is obeyed in Python."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    follow_launcher()
    os.write(tells, b'.')
    time.sleep(5)


def follow_late(launcher: int, tells: int) -> None:
    os.environ['MIRL_LAUNCHER'] = str(launcher)
    os.write(tells, b'.')
    while os.getppid() == launcher:
        time.sleep(0.01)
    try:
        follow_launcher()
    except UserError as error:
        os._exit(4 if str(error).startswith(f'torchrun, process {launcher}, has died') else 5)


@pytest.mark.skipif(sys.platform != 'linux', reason="Linux's kernel tells")
@pytest.mark.parametrize(
    ('work', 'ends'), [(follow, -signal.SIGKILL), (follow_another, 3), (follow_late, 4)]
)
def test_a_process_ends_with_its_launcher(work, ends):
    assert in_clean_process(launch, work) == ends


def test_without_torchrun_there_is_nothing_to_follow(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    monkeypatch.setenv('MIRL_LAUNCHER', '1')
    monkeypatch.setattr(ctypes, 'CDLL', None)
    assert follow_launcher() == []


def test_the_log_says_which_start_it_is(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('MIRL_LAUNCHER', str(os.getppid()))
    monkeypatch.setattr(sys, 'platform', 'other')
    for count, said in (('0', []), ('2', ['restart 2 by torchrun'])):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', count)
        assert follow_launcher() == said
