"""tools/torchrun.py and dist_train.sh with processes that train nothing: signals, restarts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.utils.distributed import get_free_port

ROOT = Path(__file__).parents[2]
# Says that it has started, and on SIGTERM, that it was asked.
WORKER = """
import os, signal, sys, time
def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's own, where the other one has failed
    os.write(1, b'asked\\n')  # (print may write in pieces)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, stop)
os.write(1, f"running {os.getppid()} {os.environ['MIRL_LAUNCHER']}\\n".encode())
time.sleep(60)
"""


def start(command: list[object], **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(part) for part in command],
        env=dict(os.environ, PYTHON=sys.executable, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(*arguments: object) -> subprocess.Popen:
    port = f'--master_port={get_free_port()}'
    return start([sys.executable, ROOT / 'tools/torchrun.py', port, *arguments])


@pytest.fixture
def worker(tmp_path) -> Path:
    (tmp_path / 'worker.py').write_text(WORKER)
    return tmp_path / 'worker.py'


@pytest.mark.parametrize(('ends', 'code'), [(0, 0), (3, 1)])
def test_sigterm_is_handed_on_and_nothing_restarts(worker, ends, code):
    run = torchrun('--nproc_per_node=2', '--max-restarts=2', worker, ends)
    assert [run.stdout.readline() for _ in range(2)] == [f'running {run.pid} {run.pid}\n'] * 2
    run.terminate()
    out, errors = run.communicate(timeout=60)
    assert run.returncode == code and out.splitlines() == ['asked'] * 2, errors


def test_sigterm_ends_one_that_waits_for_other_nodes():
    run = torchrun('--nproc_per_node=1', '--nnodes=2', '--node_rank=0', 'none.py')
    port = int(run.args[2].partition('=')[2])
    tcp = Path(f'/proc/{run.pid}/net/tcp6')
    while run.poll() is None and f':{port:04X} ' not in tcp.read_text():  # not open yet
        time.sleep(0.02)
    run.terminate()
    run.communicate(timeout=10)
    assert run.returncode == -signal.SIGTERM


def test_restarts_are_torchrun_s_and_resume():
    """With a Python that says what it is given."""
    train = [ROOT / 'tools/dist_train.sh', 'c.py', 2]
    where = dict(MAX_RESTARTS='3', PYTHON='echo', MASTER_ADDR='host', PORT='1234', NNODES='2')
    head = '--max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=host:1234 '
    for rank, meet in (
        ('0', 'is_host=1 --local-addr=host'),
        ('1', 'is_host=0 --local-addr=~000001'),
    ):
        environ = dict(os.environ, **where, NODE_RANK=rank)
        done = subprocess.run(
            [*map(str, train), '--amp'], env=environ, capture_output=True, text=True
        )
        assert done.stdout == (
            f'{ROOT}/tools/torchrun.py --nnodes=2 {head}--rdzv-conf={meet} --nproc_per_node=2 '
            f'{ROOT}/tools/train.py c.py --launcher pytorch --resume auto --amp\n'
        ), done.stderr
    for own in (['--resume'], ['--resume', 'x.pth'], ['--amp', '--resume=x.pth']):
        command = [*map(str, train), *own]
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.stdout.endswith(f' --launcher pytorch {" ".join(own)}\n')
        assert done.stdout.count('--resume') == 1


@pytest.mark.parametrize('count', ['-1', 'two', '1.5', '1000000000', ' '])
def test_a_count_that_is_none_is_one_line(count):
    run = start([ROOT / 'tools/dist_train.sh', 'c.py', 2], MAX_RESTARTS=count)
    out, errors = run.communicate(timeout=10)
    assert run.returncode == 1 and out == ''
    said = 'error: MAX_RESTARTS must be a whole number, from 0 to 99999999'
    assert errors == f"{said}, got '{count}'\n"
