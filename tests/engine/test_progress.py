import io
import logging
import sys
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import IterTimerHook
from mmengine.logging import MessageHub
from mmengine.runner import IterBasedTrainLoop
from rich.console import Console

from mirl_mm.engine.hooks import ProgressHook, progress
from mirl_mm.engine.hooks.progress import clock, duration, one_line, recent


class Terminal(io.StringIO):
    encoding = 'utf-8'

    def isatty(self) -> bool:
        return True


class Loss:
    """Counts how often somebody waits for its value."""

    def __init__(self) -> None:
        self.read = 0

    def item(self) -> float:
        self.read += 1
        return 0.5


def fake_runner(iterations: int) -> SimpleNamespace:
    return SimpleNamespace(
        iter=0,
        max_iters=iterations,
        train_loop=object.__new__(IterBasedTrainLoop),
        train_dataloader=SimpleNamespace(batch_size=4),
        val_dataloader=range(5),
        test_dataloader=range(5),
        optim_wrapper=SimpleNamespace(param_groups=[dict(lr=1e-4), dict(lr=1.5e-3)]),
        logger=SimpleNamespace(handlers=[]),
        message_hub=MessageHub(f'progress-{time.perf_counter_ns()}'),
    )


def walk(hook: ProgressHook, iterations: int, loss: Loss | None = None) -> None:
    runner, loss = fake_runner(iterations), loss or Loss()
    hooks = [hook, IterTimerHook()]  # by priority
    for each in hooks:
        each.before_train(runner)
        each.before_train_epoch(runner)
    for runner.iter in range(iterations):
        for each in hooks:
            each.before_train_iter(runner, runner.iter)
        for each in hooks:
            each.after_train_iter(runner, runner.iter, outputs=dict(loss=loss))
    hook.after_train(runner)


def test_plain_lines_off_a_terminal(monkeypatch):
    stream, loss = io.StringIO(), Loss()
    monkeypatch.setattr(sys, 'stdout', stream)
    walk(ProgressHook(lines=4), 10, loss)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ['2/10', '4/10', '6/10', '8/10', '10/10']
    for line in lines:
        for part in ('loss 0.5000', 'lr 1.50e-03', 'images/s', 'data ', 'GiB', 'until '):
            assert part in line
    assert 'left 0:00' in lines[-1]
    assert loss.read == 5


def test_at_the_latest_every_ten_minutes(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(progress, 'PLAIN_SECONDS', 0)
    walk(ProgressHook(lines=1), 10)
    assert len(stream.getvalue().splitlines()) == 10


def test_a_live_line_on_a_terminal(monkeypatch):
    stream, loss = Terminal(), Loss()
    monkeypatch.setattr(sys, 'stdout', stream)
    walk(ProgressHook(), 50, loss)
    shown = stream.getvalue()
    assert 'iteration 50/50 100%' in shown
    assert loss.read < 3  # not every step
    assert shown.count('\x1b[?25l') == shown.count('\x1b[?25h') == 1  # the cursor is back


def test_messages_go_above_the_live_line(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stdout', stream)
    hook, runner = ProgressHook(), fake_runner(3)
    logger, handler = logging.Logger('any'), logging.StreamHandler(stream)
    logger.addHandler(handler)
    runner.logger = logger
    hook.before_train(runner)
    assert handler.stream is not stream
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0, outputs=dict(loss=Loss()))
    logger.warning('attention please')
    hook.after_train(runner)
    assert handler.stream is stream
    assert 'attention please\n' in stream.getvalue()


def test_validation_and_testing_are_on_the_live_line(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(progress, 'SECONDS', 0)
    hook, runner = ProgressHook(), fake_runner(3)
    hook.before_train(runner)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 1)
    hook.after_val_epoch(runner, {})
    hook.after_train(runner)
    hook.before_test(runner)
    hook.after_test_iter(runner, 4)
    hook.after_test(runner)
    assert 'validation  40%' in stream.getvalue()
    assert 'testing 100%' in stream.getvalue()


def test_validation_alone(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    hook, runner = ProgressHook(), fake_runner(3)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 1)
    hook.after_val_epoch(runner, {})


def test_other_processes_keep_silent(monkeypatch):
    stream, loss = io.StringIO(), Loss()
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr('mirl_mm.engine.hooks.progress.is_main_process', lambda: False)
    walk(ProgressHook(), 3, loss)
    assert stream.getvalue() == ''
    assert loss.read == 0


@pytest.mark.parametrize('width', [30, 60, 80, 100, 200])
def test_one_line_of_any_width(width):
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    fields = ['loss 0.5123', 'left 1:02:03', 'until 14:05', '5,231 images/s', 'data 3%']
    console.print(one_line('epoch 3/800  1204/5004', fields, 30, 100, console))
    (line,) = stream.getvalue().splitlines()
    assert len(line) <= width
    assert line.startswith('epoch 3/800  1204/5004')
    assert ('data 3%' in line) == (width == 200)
    assert ('loss 0.5123' in line) == (width >= 60)


def test_pace():
    hub = MessageHub(f'pace-{time.perf_counter_ns()}')
    hub.update_scalar('train/data_time', 9.0)  # of an earlier start
    hub.update_scalar('train/time', 9.0)
    for _ in range(10):  # 0.5 s of waiting and 1.5 s of work each
        hub.update_scalar('train/data_time', 0.5)
        hub.update_scalar('train/time', 2.0)
    hub.update_scalar('train/data_time', 7.0)  # of the iteration that is not over yet
    seconds, waiting = recent(hub, 10)
    assert seconds == pytest.approx(2)
    assert waiting == pytest.approx(0.25)
    hub.update_scalar('train/time', 100.0)  # a slow spell pushes the window on
    hub.update_scalar('train/data_time', 0.0)
    assert recent(hub, 11) == pytest.approx((100, 0.07))


def test_time_left_counts_validation(monkeypatch):
    now, stream = 100.0, io.StringIO()
    monkeypatch.setattr(time, 'perf_counter', lambda: now)
    monkeypatch.setattr(sys, 'stdout', stream)
    hook, runner = ProgressHook(lines=1), fake_runner(20)
    runner.iter, runner.message_hub = 10, MessageHub('left')
    hook.before_train(runner)
    monkeypatch.setattr(progress, 'PLAIN_SECONDS', 0)
    for runner.iter in range(10, 15):
        now += 2
        if runner.iter == 14:
            now += 30  # validation
        hook.after_train_iter(runner, runner.iter, outputs=dict(loss=Loss()))
    last = stream.getvalue().splitlines()[-1]
    assert 'left 0:40' in last  # the next five, with as much validation
    assert 'images/s' not in last and 'data' not in last  # there is no IterTimerHook


def test_durations_and_clocks():
    assert [duration(s) for s in (0.4, 42, 11262, 200_000)] == [
        '0:00',
        '0:42',
        '3:07:42',
        '2 d 7:33',
    ]
    now = datetime(2026, 3, 2, 23, 0)
    ends = [clock(now, s) for s in (60, 7200, 86400 * 9)]
    assert ends == ['23:01', 'Tue 01:00', '11 Mar 23:00']


def test_lines_must_be_positive():
    with pytest.raises(ValueError, match='lines must be at least 1, got 0'):
        ProgressHook(lines=0)


def test_a_tensors_loss_is_read(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    walk(ProgressHook(lines=1), 1, torch.tensor(0.25, requires_grad=True))
    assert 'loss 0.2500' in stream.getvalue()


@pytest.mark.parametrize(('processes', 'then'), [(1, 'loss 0.5000'), (2, 'loss 0.7500')])
def test_the_loss_of_several_processes_is_the_newest_mean(monkeypatch, processes, then):
    runner, outputs = fake_runner(3), dict(loss=torch.tensor(0.5))
    monkeypatch.setattr(progress, 'get_world_size', lambda: processes)
    assert progress.training_fields(runner, outputs, 0, 1.0)[0] == 'loss 0.5000'
    runner.message_hub.update_scalar('train/loss', 0.75)
    assert progress.training_fields(runner, outputs, 0, 1.0)[0] == then
