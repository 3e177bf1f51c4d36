"""Two nodes on this machine: two network namespaces of the kernel, joined by one link.

Each namespace lives as long as the processes in it; nothing is left of it, nor of the link, when
they end, whatever happens to the process that made it.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

INTERFACE = 'veth0'  # what a node calls its end of the link
ADDRESSES = ('10.213.0.1', '10.213.0.2')


class NoNodesError(RuntimeError):
    """The two nodes cannot be made here; says why."""


@dataclass(frozen=True)
class Node:
    """Where to run something.

    Attributes:
        prefix: what comes before a command to run it on this node.
        address: by which the other node reaches it.
        environ: what processes need to find each other (the host's name has no address here).
    """

    prefix: list[str]
    address: str

    @property
    def environ(self) -> dict[str, str]:
        return dict(GLOO_SOCKET_IFNAME=INTERFACE, NCCL_SOCKET_IFNAME=INTERFACE)


@dataclass(frozen=True)
class TwoNodes:
    nodes: tuple[Node, Node]

    def cut(self) -> None:
        """Take the link down at the second node: packets are lost, connections stay open."""
        self._set('down')

    def mend(self) -> None:
        self._set('up')

    def _set(self, state: str) -> None:
        _run([*self.nodes[1].prefix, 'ip', 'link', 'set', INTERFACE, state])


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Two nodes that reach each other and nothing else.

    Raises:
        NoNodesError: the kernel refuses, or iproute2 or util-linux is not installed.
    """
    with ExitStack() as stack:
        nodes, holders = [], []
        for address in ADDRESSES:
            holder = _hold(stack)
            prefix = ['nsenter', '--target', str(holder), '--net']
            holders.append(holder)
            nodes.append(Node(prefix, address))
        one, other = nodes
        link = ['ip', 'link', 'add', INTERFACE, 'type', 'veth', 'peer', 'name', INTERFACE]
        _run([*one.prefix, *link, 'netns', str(holders[1])])
        for node in nodes:
            _run([*node.prefix, 'ip', 'address', 'add', f'{node.address}/24', 'dev', INTERFACE])
            for interface in ('lo', INTERFACE):
                _run([*node.prefix, 'ip', 'link', 'set', interface, 'up'])
        yield TwoNodes((one, other))


def _hold(stack: ExitStack) -> int:
    """A process in a namespace of its own that ends with this one: its input is closed then."""
    try:
        holder = stack.enter_context(
            subprocess.Popen(
                ['unshare', '--net', 'sh', '-c', 'echo ready; exec cat'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    except OSError as error:
        raise NoNodesError(f'no network namespace can be made: {error}') from None
    stack.callback(holder.kill)
    if holder.stdout.readline() != 'ready\n':
        raise NoNodesError(f'no network namespace can be made: {holder.stderr.read().strip()}')
    return holder.pid


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NoNodesError(f'two namespaces cannot be joined: {error}') from None
    if done.returncode:
        what = ' '.join(command[command.index('ip') :]) if 'ip' in command else command[0]
        raise NoNodesError(f'two namespaces cannot be joined: {what}: {done.stderr.strip()}')
