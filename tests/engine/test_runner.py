import logging

import pytest
from mmengine.runner import Runner

from mirl_mm.engine.launch import load_config
from mirl_mm.engine.runner import FOR_TERMINAL, TerseRunner, belongs_on_terminal, check_packages


def record(level: int, message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(dict(levelno=level, msg=message))
    made.__dict__.update(extra)
    return made


def test_what_belongs_on_the_terminal():
    assert belongs_on_terminal(record(logging.WARNING, 'the rate does not fit'))
    assert belongs_on_terminal(record(logging.INFO, 'Run summary', **FOR_TERMINAL))
    assert not belongs_on_terminal(record(logging.INFO, 'Initialized by user-defined ...'))
    frozen = 'backbone.pos_embed is skipped since its requires_grad=False'
    assert not belongs_on_terminal(record(logging.WARNING, frozen))
    own = '"FileClient" will be deprecated in future. Please use io functions'
    assert not belongs_on_terminal(record(logging.WARNING, own))


def test_the_file_has_everything(tmp_path, capsys):
    runner = object.__new__(TerseRunner)
    runner._log_dir, runner._timestamp = str(tmp_path), 'now'
    runner._experiment_name = 'terse-test'
    logger = runner.build_logger()
    logger.info('one of thousands')
    logger.info('the summary', extra=FOR_TERMINAL)
    shown, kept = capsys.readouterr().out, (tmp_path / 'now.log').read_text()
    assert 'the summary' in shown
    assert 'one of thousands' not in shown
    assert 'the summary' in kept
    assert 'one of thousands' in kept


def test_any_default_hook_can_be_switched_off():
    runner, registered = object.__new__(TerseRunner), []
    runner.register_hook = registered.append
    runner.register_default_hooks(
        dict(timer=None, progress=None, health=dict(type='HealthHook'), results=None)
    )
    names = [hook['type'] for hook in registered]
    assert 'HealthHook' in names and 'LoggerHook' in names
    assert 'IterTimerHook' not in names
    assert len(names) == 6


@pytest.mark.parametrize('task', ['train', 'test'])
def test_processes_end_together(monkeypatch, task):
    runner, order = object.__new__(TerseRunner), []
    monkeypatch.setattr(Runner, task, lambda self: order.append(task) or 'result')
    monkeypatch.setattr('mirl_mm.engine.runner.barrier', lambda: order.append('barrier'))
    assert getattr(runner, task)() == 'result'
    assert order == [task, 'barrier']


def test_a_backend_whose_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr('mirl_mm.engine.runner.find_spec', lambda name: None)
    check_packages(dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]))
    check_packages(None)
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    with pytest.raises(ValueError, match='needs the package tensorboard: pip install tensorboard'):
        check_packages(dict(type='Visualizer', vis_backends=backends))
    config = tmp_path / 'config.py'
    config.write_text(f'visualizer = dict(vis_backends={backends})\n')
    with pytest.raises(ValueError, match='needs the package tensorboard'):
        load_config(str(config))
    monkeypatch.setattr('mirl_mm.engine.runner.find_spec', lambda name: object())
    check_packages(dict(type='Visualizer', vis_backends=backends))
