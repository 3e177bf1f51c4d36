import io
import sys
from types import SimpleNamespace

import pytest
import torch

from mirl_mm.engine.hooks import ProgressHook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def walk(hook: ProgressHook, iterations: int) -> None:
    runner = SimpleNamespace(
        iter=0, max_iters=iterations, train_dataloader=SimpleNamespace(batch_size=4)
    )
    hook.before_train(runner)
    for runner.iter in range(iterations):
        hook.after_train_iter(runner, runner.iter, outputs=dict(loss=torch.tensor(0.5)))
    hook.after_train(runner)


def test_plain_lines_off_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    walk(ProgressHook(lines=4), 10)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ['2/10', '4/10', '6/10', '8/10', '10/10']
    assert all('loss 0.5000' in line and 'images/s' in line for line in lines)
    assert lines[-1].endswith('about 0 s left')


def test_a_live_line_on_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stdout', stream)
    walk(ProgressHook(), 3)
    shown = stream.getvalue()
    assert '3/3' in shown
    assert 'iteration' not in shown


def test_other_processes_keep_silent(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr('mirl_mm.engine.hooks.progress.is_main_process', lambda: False)
    walk(ProgressHook(), 3)
    assert stream.getvalue() == ''


def test_lines_must_be_positive():
    with pytest.raises(ValueError, match='lines must be at least 1, got 0'):
        ProgressHook(lines=0)
