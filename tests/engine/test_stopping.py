import io
import os
import sys

import pytest

from mirl_mm.engine.stopping import fail_fast
from mirl_mm.errors import CheckpointError


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
