"""python -m benchmarks.gpu: processes, their time, and input that cannot be used."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu.stage import Record
from benchmarks.gpu.stages import STAGES
from benchmarks.processes import end, family
from tests.gpu.small import arguments, part


def test_a_stage_whose_process_dies_goes_on_behind_the_part(tmp_path, monkeypatch, capsys):
    parts, codes = [part('one'), part('two')], iter([-11, 0])
    monkeypatch.setitem(STAGES, 'dense', STAGES['dense']._replace(parts=lambda rehearse: parts))

    def child(name, args, call, seconds, log):
        record, code = Record(tmp_path / 'dense.json'), next(codes)
        record.running = 'one' if code else None
        record.rows += [] if code else [dict(part='two', says='')]
        record.write()
        return code, 'Segmentation fault'

    monkeypatch.setattr(entry, 'child', child)
    entry.run_stage('dense', arguments(tmp_path), 'call', time.monotonic() + 100, None)
    record = Record(tmp_path / 'dense.json')
    assert record.failed['one']['error'] == 'its process ended with -11\nSegmentation fault'
    assert list(record.found) == ['two']
    assert 'dense, one: FAILED: its process ended with -11' in capsys.readouterr().out


def test_a_process_without_its_device_is_started_anew(tmp_path, monkeypatch, capsys):
    """As when a kernel has failed: the part is in the record, and the process ends behind it."""
    parts, calls = [part('one'), part('two')], []
    monkeypatch.setitem(STAGES, 'dense', STAGES['dense']._replace(parts=lambda rehearse: parts))

    def child(name, args, call, seconds, log):
        calls.append(name)
        if len(calls) == 1:
            Record(tmp_path / 'dense.json').fail('one', 'illegal memory access', call)
        return 1, 'illegal memory access'

    monkeypatch.setattr(entry, 'child', child)
    entry.run_stage('dense', arguments(tmp_path), 'call', time.monotonic() + 100, None)
    assert len(calls) == 2  # nothing had failed anew in the second, so that is the end
    assert (
        'dense: FAILED: its process ended with 1\nillegal memory access' in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ('spent', 'left', 'only', 'seconds'),
    [(0, 1000, None, 300), (200, 1000, None, 100), (0, 90, None, 90), (290, 1000, None, None),
     (290, 1000, ['dense'], 1000), (0, 10, None, None)],
)  # fmt: skip
def test_the_time_of_a_stage(spent, left, only, seconds, tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(
        entry, 'child', lambda name, args, call, s, log: given.append(round(s)) or (0, '')
    )
    record = Record(tmp_path / 'dense.json')
    record.spent = spent
    record.write()
    monkeypatch.setattr(entry.time, 'monotonic', lambda: 0.0)
    entry.run_stage('dense', arguments(tmp_path, only=only, rehearse=False), 'call', left, None)
    assert given == ([] if seconds is None else [seconds])
    said = capsys.readouterr().out
    assert ('seconds are too few for what is missing' in said) == (seconds is None)


def test_a_stage_is_ended_at_its_limit_with_all_that_it_started(tmp_path, monkeypatch):
    """A script takes the place of the stage's process."""
    script = 'import subprocess, time; subprocess.Popen(["setsid", "sleep", "60"]); time.sleep(60)'
    (tmp_path / 'python').write_text(f"#!/bin/sh\nexec {sys.executable} -c '{script}'\n")
    (tmp_path / 'python').chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))
    started, real = [], subprocess.Popen

    def popen(*args, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(entry.subprocess, 'Popen', popen)
    seen = []
    monkeypatch.setattr(entry, 'end', lambda process: (seen.extend(family(process)), end(process)))
    with (tmp_path / 'log').open('w') as log:
        code, _ = entry.child('dense', arguments(tmp_path), 'call', 1.5, log)
    assert code is None
    assert len(seen) == 2 and started[0].returncode == -signal.SIGKILL
    time.sleep(0.1)
    assert not [each for each in seen[1:] if running(each)]


def running(process: int) -> bool:
    try:
        with open(f'/proc/{process}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


# --- bad input ------------------------------------------------------------------------------------


def run_entry(monkeypatch, *words: object) -> str:
    monkeypatch.setattr(sys, 'argv', ['gpu', *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        entry.main()
    return str(stopped.value.code)


def pretend_gpu(monkeypatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: name)


def written(folder, hardware: str, rehearsal: bool) -> None:
    record = Record(folder / 'dense.json')
    record.head = dict(hardware=hardware, rehearsal=rehearsal)
    record.write()


def test_no_gpu(monkeypatch, tmp_path):
    said = run_entry(monkeypatch, '--out', tmp_path)
    assert said == 'error: torch sees no GPU; --rehearse runs all stages at test size on a CPU'


def test_results_of_another_device(monkeypatch, tmp_path):
    written(tmp_path, 'NVIDIA H200', False)
    pretend_gpu(monkeypatch, 'NVIDIA H100 80GB HBM3')
    assert run_entry(monkeypatch, '--out', tmp_path) == (
        f"error: {tmp_path} holds results of 'NVIDIA H200', and this is 'NVIDIA H100 80GB HBM3': "
        'give another --out'
    )


def test_a_rehearsal_and_measurements_do_not_mix(monkeypatch, tmp_path):
    pretend_gpu(monkeypatch, 'NVIDIA H200')
    written(tmp_path, 'x86_64 CPU', True)
    assert run_entry(monkeypatch, '--out', tmp_path) == (
        f"error: {tmp_path} holds results of a rehearsal, and this is 'NVIDIA H200': "
        'give another --out'
    )
    written(tmp_path, 'NVIDIA H200', False)
    assert run_entry(monkeypatch, '--out', tmp_path, '--rehearse') == (
        f"error: {tmp_path} holds results of 'NVIDIA H200', and this is a rehearsal: "
        'give another --out'
    )
