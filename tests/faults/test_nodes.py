"""Two nodes by network namespaces: joined until the link is cut, and nothing is left of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.nodes import INTERFACE, NoNodesError, two_nodes

REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.5).close()
except OSError as error:
    sys.exit(type(error).__name__)
"""
SERVE = 'import socket; s = socket.create_server(("", 5001)); print("open", flush=True)\n'
SERVE += 'while True: s.accept()[0].close()'


def test_they_reach_each_other_until_the_link_is_cut():
    try:
        with two_nodes() as network:
            one, other = network.nodes
            assert one.address != other.address

            def reached(node, address: str) -> bool:
                command = [*node.prefix, sys.executable, '-c', REACH, address, '5001']
                return subprocess.run(command, capture_output=True).returncode == 0

            command = [*one.prefix, sys.executable, '-c', SERVE]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout.readline() == 'open\n'
                assert reached(other, one.address) and reached(one, '127.0.0.1')
                assert not reached(other, '127.0.0.1')
                network.cut()
                assert not reached(other, one.address) and reached(one, '127.0.0.1')
                network.mend()
                assert reached(other, one.address)
                server.kill()
            holder = Path('/proc', one.prefix[2])
            assert holder.is_dir()
    except NoNodesError as error:
        pytest.skip(str(error))
    assert not holder.exists() and INTERFACE not in Path('/proc/net/dev').read_text()


def test_nothing_is_left_after_an_error():
    holder = None
    try:
        with two_nodes() as network:
            holder = Path('/proc', network.nodes[1].prefix[2])
            assert holder.is_dir()
            raise ArithmeticError
    except NoNodesError as error:
        pytest.skip(str(error))
    except ArithmeticError:
        assert not holder.exists()


@pytest.mark.parametrize(
    ('program', 'said'), [('unshare', 'Operation not permitted'), ('nsenter', 'No such device')]
)
def test_a_kernel_that_refuses_is_named(program, said, tmp_path, monkeypatch):
    for name, text in dict(unshare='shift; exec "$@"', nsenter='shift 3; exec "$@"').items():
        refuses = f'echo "{name}: {said}" >&2; exit 1'
        (tmp_path / name).write_text(f'#!/bin/sh\n{refuses if name == program else text}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    with pytest.raises(NoNodesError, match=f'{program}: {said}'), two_nodes():
        pass


def test_a_program_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(NoNodesError, match=r"can be made: .*No such file.*'unshare'"), two_nodes():
        pass
