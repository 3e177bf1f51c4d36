"""The short version of benchmarks/faults: real kills, on one and two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.faults.bench import Outcome, write_table
from benchmarks.faults.jobs import Job, processes_of, same_end
from benchmarks.faults.kills import gives_up
from benchmarks.faults.kinds import KINDS, Data
from benchmarks.faults.table import BETWEEN, README, RESULTS, table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group('faults')


@pytest.mark.long
def test_a_short_version_loses_nothing(tmp_path):
    environ = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.faults', '--short'],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if re.search(r'  \d+ +\d+ +\d+$', line)]
    assert len(rows) == 7
    assert re.fullmatch(r'all +7 +7 +0', rows[-1])


def test_what_is_lost_is_counted_and_told():
    outcomes = [Outcome('kill'), Outcome('cut')]
    outcomes[0].count('', 3)
    outcomes[0].count('job1 differs in state_dict.x', 2)
    outcomes[1].count('')
    assert write_table(outcomes).splitlines() == [
        'fault  injected  survived  lost',
        'kill          5         3     2',
        '    job1 differs in state_dict.x',
        'cut           1         1     0',
        'all           6         4     2',
    ]


def test_a_row_of_several_keeps_the_longest_time():
    row, first, second = Outcome('all'), Outcome('kill'), Outcome('cut')
    first.count('', 2)
    first.took(5.04)
    first.took(1)
    second.count('it hung')
    for each in (first, second):
        row.add(each)
    assert (row.injected, row.survived, row.lost) == (3, 2, 1)
    assert (row.noticed, row.notes) == (5.0, ['it hung'])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Data:
    return Data(tmp_path_factory.mktemp('kinds')).write()


@pytest.mark.parametrize('name', KINDS)
def test_a_kind_is_as_long_as_it_says(name, data):
    """Checkpoints come within epochs and within accumulated groups; the data is the bench's own."""
    kind = KINDS[name]
    for processes in (1, 2):
        cfg = kind.config(data, processes, randomness__seed=5)
        loader = cfg.train_dataloader
        assert loader.batch_size * processes == kind.batch and loader.num_workers == 1
        assert loader.dataset.data_root.startswith(str(data.folder))
        assert cfg.randomness.seed == 5
        if 'max_epochs' in cfg.train_cfg:
            root = Path(loader.dataset.data_root, loader.dataset.get('data_prefix', ''))
            epoch = len(list(root.rglob('*.png'))) // kind.batch
            assert epoch * cfg.train_cfg.max_epochs == kind.iterations
            assert epoch % cfg.default_hooks.checkpoint.interval
        else:
            assert cfg.train_cfg.max_iters == kind.iterations
        accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
        assert accumulated == 1 or cfg.default_hooks.checkpoint.interval % accumulated
        assert kind.iterations % cfg.default_hooks.checkpoint.interval


def test_what_lives_of_a_job_is_found(tmp_path, data):
    """By its config on the command line, and by its process group; not what has ended."""
    job = Job(tmp_path, 'job1', KINDS['MAE'].config(data))
    other = Job(tmp_path, 'job2', KINDS['MAE'].config(data))
    command = [sys.executable, '-c', 'input()']
    pipes = dict(stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    named = subprocess.Popen([*command, str(job.file)], **pipes)
    grouped = subprocess.Popen(command, start_new_session=True, **pipes)
    job.groups.append(grouped.pid)
    try:
        assert set(processes_of([job])) == {named.pid, grouped.pid} and not processes_of([other])
    finally:
        for process in (named, grouped):
            process.kill()
    os.waitid(os.P_PID, named.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked how
    os.waitid(os.P_PID, grouped.pid, os.WEXITED | os.WNOWAIT)
    assert not processes_of([job])
    named.communicate(), grouped.communicate()


def test_an_end_without_averages_is_not_one_with_them(tmp_path, data):
    job = Job(tmp_path, 'job', KINDS['MAE'].config(data), kind='MAE', iterations=20)
    job.work_dir.mkdir()
    state = dict(state_dict=dict(x=torch.zeros(2)), optimizer=dict(), param_schedulers=[])
    assert same_end(job, state) == 'the run has no end'
    torch.save(state, job.work_dir / 'iter_20.pth')
    assert same_end(job, state) == ''
    assert same_end(job, state | dict(state_dict=dict(x=torch.ones(2)))) == 'state_dict.x'
    assert same_end(job, state | dict(ema_state_dict=dict())) == 'ema_state_dict'


@pytest.mark.parametrize(
    ('said', 'rank'),
    [
        ('process 1 of 2 (vm, pid 71) has not answered for 5 s', 1),
        ("the store at 127.0.0.1:9 (process 0's machine: vm, pid 7) has not answered for 5 s", 0),
    ],
)
def test_who_does_not_answer_is_read(said, rank):
    assert gives_up(f'process 0 of 2: error: {said}: this job ends', rank)
    assert not gives_up(said, 1 - rank) and not gives_up(said.replace('not', 'just'), rank)


def test_the_page_shows_the_results():
    results = json.loads(RESULTS.read_text())
    assert sum(row['injected'] for row in results['faults']) >= 30
    assert BETWEEN.search(README.read_text())[0].strip() == table().strip()
