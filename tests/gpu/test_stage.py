"""Parts and records: what is kept, skipped, tried again and left out."""

import json
import os
import time

from benchmarks.gpu import stage
from benchmarks.gpu.stage import Bench, LeftOut, Record, next_part, run_parts
from tests.gpu.small import bench, part


def fail(bench: Bench) -> dict:
    raise RuntimeError('a typo')


def left_out(bench: Bench) -> dict:
    raise LeftOut('ops not built')


def test_what_has_a_result_is_skipped_and_the_rest_goes_on(tmp_path, capsys):
    calls = []
    good = part('good', lambda bench: calls.append('good') or dict(says='fast', value=1))
    parts = [part('bad', fail), good, part('no ops', left_out), part('long', seconds=100)]
    file = tmp_path / 'x.json'
    run_parts('x', parts, bench(seconds_left=lambda: 50), Record(file), 'first', {})
    content = json.loads(file.read_text())
    (row,) = content['rows']
    assert row | dict(date=None) == dict(part='good', date=None, took_s=0.0, says='fast', value=1)
    assert 'RuntimeError: a typo' in content['failed']['bad']['error']
    assert ', in fail\n' in content['failed']['bad']['error']
    assert content['left_out'] == {'no ops': 'ops not built'}
    assert content['running'] is None
    said = capsys.readouterr().out
    assert '>>> x, good: fast (0 s)\n' in said
    assert '>>> x, bad: FAILED: RuntimeError: a typo\n' in said
    assert '>>> x, no ops: left out: ops not built\n' in said

    # What failed is not tried again in the same call, and last in the next.
    record = Record(file)
    assert [p.name for p in record.missing(parts, 'first')] == ['no ops', 'long']
    assert [p.name for p in record.missing(parts, 'second')] == ['no ops', 'long', 'bad']
    assert next_part(parts, record, 'second', 200).name == 'no ops'
    assert next_part(parts[3:], record, 'second', 50) is None
    parts[0] = part('bad')
    run_parts('x', parts, bench(seconds_left=lambda: 200), record, 'second', {})
    content = json.loads(file.read_text())
    assert [row['part'] for row in content['rows']] == ['good', 'long', 'bad']
    assert content['failed'] == {} and calls == ['good']


def test_a_part_that_needs_more_memory_is_left_out(tmp_path):
    record = Record(tmp_path / 'x.json')
    run_parts('x', [part('big', gb=1e6)], bench(rehearse=False), record, 'call', {})
    assert record.left_out['big'].startswith('needs about 1e+06 GB of memory, and this device has ')


def test_a_part_that_hangs_ends_the_process(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(stage, 'end', ended.append)
    with stage.at_most(0.05):
        time.sleep(0.5)
    assert ended == [os.getpid()]
    assert 'it took more than 0 seconds' in capsys.readouterr().out
    with stage.at_most(5):
        pass
