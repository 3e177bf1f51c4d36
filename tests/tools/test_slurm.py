"""tools/slurm_train.sh with stand-ins for srun and scontrol; and ports of dist_*.sh."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirl_mm.demo.scene_set import write_scenes

ROOT = Path(__file__).parents[2]
SLURM = ROOT / 'tools' / 'slurm_train.sh'

# A step that says that it runs, and on SIGTERM, that it has saved.
STEP = """#!/usr/bin/env bash
echo "srun $*"
trap 'echo saved; exit ${STEP_ENDS:-0}' TERM
echo running
[ -n "${STEP_ENDS_BY_ITSELF:-}" ] || while true; do sleep 0.02; done
"""
# One process of a real training, on a CPU; SIGTERM goes to it, as srun hands it on.
TRAINING = """#!/usr/bin/env bash
while [ "${1##*/}" != python ]; do shift; done
exec "${@//slurm/none}"
"""


@pytest.fixture
def cluster(tmp_path):
    """A PATH with a given srun, and a scontrol that says what it is asked."""

    def make(srun: str, **more: str) -> dict[str, str]:
        for name, text in dict(srun=srun, scontrol='#!/bin/sh\necho "scontrol $*"\n').items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        mine = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='python')
        mine.pop('SLURM_JOB_ID', None)
        return mine | more

    return make


def start(environ: dict[str, str], *arguments: object, script: Path = SLURM) -> subprocess.Popen:
    command = [script, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_what_srun_is_given(cluster):
    environ = cluster(STEP, STEP_ENDS_BY_ITSELF='1', GPUS='16', SRUN_ARGS='--qos=low --exclusive')
    out, _ = start(environ, 'gpu', 'job', 'c.py', 'runs/a b', '--amp').communicate(timeout=20)
    first = 'srun --partition=gpu --job-name=job --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 '
    first += '--cpus-per-task=5 --kill-on-bad-exit=1 --qos=low --exclusive python -u '
    tool = f'{ROOT}/tools/train.py c.py --launcher slurm --resume auto --work-dir runs/a b --amp'
    assert out == f'{first}{tool}\nrunning\n'

    environ = cluster(STEP, STEP_ENDS_BY_ITSELF='1', GPUS='2')
    out, _ = start(environ, 'gpu', 'job', 'c.py', '--resume', 'x.pth').communicate(timeout=20)
    assert '--gres=gpu:2 --ntasks=2 --ntasks-per-node=2' in out
    assert out.splitlines()[0].endswith('train.py c.py --launcher slurm --resume x.pth')


@pytest.mark.parametrize(
    ('asked', 'job', 'last'),
    [
        (signal.SIGTERM, dict(SLURM_JOB_ID='17'), 'scontrol requeue 17'),
        (signal.SIGUSR1, dict(SLURM_JOB_ID='17'), 'scontrol requeue 17'),
        (signal.SIGTERM, {}, 'stopped and saved: the same command goes on'),
    ],
)
def test_a_signal_saves_and_queues_again(cluster, asked, job, last):
    run = start(cluster(STEP, **job), 'gpu', 'job', 'c.py')
    assert run.stdout.readline().startswith('srun ') and run.stdout.readline() == 'running\n'
    run.send_signal(asked)
    out, _ = run.communicate(timeout=20)
    assert run.returncode == 0
    assert out.splitlines()[0] == 'saved' and out.splitlines()[-1] == last


def test_what_was_not_saved_is_not_queued_again(cluster):
    run = start(cluster(STEP, SLURM_JOB_ID='17', STEP_ENDS='1'), 'gpu', 'job', 'c.py')
    assert [run.stdout.readline() for _ in range(2)][1] == 'running\n'
    run.terminate()
    out, _ = run.communicate(timeout=20)
    assert run.returncode == 1 and 'scontrol' not in out


def test_without_a_config_it_says_how_it_is_used():
    done = subprocess.run([SLURM, 'gpu', 'job'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


@pytest.mark.long
def test_a_real_training_saves_and_goes_on(cluster, tmp_path):
    scenes = write_scenes(tmp_path / 'scenes', 16, 4, size=64).root
    environ = cluster(TRAINING, SLURM_JOB_ID='17', OMP_NUM_THREADS='1')
    environ |= dict(PYTHON=str(Path(sys.executable).with_name('python')), SLURM_NTASKS='1')
    options = [f'{x}_dataloader.dataset.data_root={scenes}' for x in ('train', 'val')]
    options += ['train_dataloader.batch_size=2', 'default_hooks.logger.interval=1']
    given = ['gpu', 'job', ROOT / 'configs/mirl/vit-test_2e.py', tmp_path / 'run']
    run = start(environ, *given, '--cfg-options', *options, 'train_cfg.max_epochs=400')
    out, end = '', time.monotonic() + 100
    while not re.search(r'\[\s*\d+/', out) and time.monotonic() < end:
        out += run.stdout.readline()
    run.terminate()
    rest, _ = run.communicate(timeout=60)
    assert run.returncode == 0, out + rest
    number, total = re.search(
        r'SIGTERM after (\d+) of (\d+) iterations: saved', out + rest
    ).groups()
    assert rest.rstrip().endswith('scontrol requeue 17')

    epochs = int(number) // (int(total) // 400) + 1  # one more than those that are done
    done = start(environ, *given, '--cfg-options', *options, f'train_cfg.max_epochs={epochs}')
    out, _ = done.communicate(timeout=100)
    assert done.returncode == 0, out
    assert f'iter_{number}.pth' in out and 'scontrol' not in out
    assert (tmp_path / 'run' / f'epoch_{epochs}.pth').is_file()


@pytest.mark.parametrize(('script', 'given'), [('dist_train.sh', 'c.py'), ('dist_test.sh', 'c x')])
def test_a_port_that_is_taken_is_one_line(script, given):
    environ = dict(os.environ, PYTHON=sys.executable)
    with socket.create_server(('', 0)) as taken:
        port = taken.getsockname()[1]
        for word, why in ((str(port), 'Address already in use'), ('many', 'invalid literal')):
            run = start(
                environ | dict(PORT=word), *given.split(), 1, script=ROOT / 'tools' / script
            )
            out, _ = run.communicate(timeout=20)
            assert run.returncode == 1 and out.count('\n') == 1
            assert out.startswith(f'error: port {word} cannot be opened ({why}')
            assert 'choose another: PORT=29501 ' in out
        other = environ | dict(PORT=str(port), NODE_RANK='1', NNODES='2', PYTHON='echo')
        out, _ = start(other, *given.split(), 1, script=ROOT / 'tools' / script).communicate()
        started = f'{ROOT}/tools/torchrun.py --nnodes=2 --node_rank=1 '
        assert out.startswith(started)  # the port is the first node's
