import io
import os
import sys

from mirl_mm.engine.stopping import fail_fast


def test_a_traceback_comes_at_once_also_where_stderr_is_held_back(monkeypatch, capfd):
    """As torch does around the hooks of distributed processes."""
    codes = []
    monkeypatch.setattr(os, '_exit', codes.append)
    monkeypatch.setattr('signal.signal', lambda *_: None)
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)  # put back at the end
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    fail_fast()
    try:
        raise ArithmeticError('of this process')
    except ArithmeticError:
        sys.excepthook(*sys.exc_info())
    written = capfd.readouterr().err
    assert written.startswith('\nprocess 1 of 2 failed:\nTraceback (most recent call last):\n')
    assert written.endswith('ArithmeticError: of this process\n\n')
    assert codes == [1]
