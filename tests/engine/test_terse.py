import logging

from mirl_mm.engine.terse import FOR_TERMINAL, TerseRunner, belongs_on_terminal


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
