"""Processes, and all that they have started, also those with a session of their own."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf('SC_CLK_TCK')  # of CPU time, in a second


def with_checkout() -> dict[str, str]:
    """The environment for a process that imports this checkout's packages."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))


def family(process: int) -> list[int]:
    """A process and all below it, parents first."""
    parents = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):  # it has just ended
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
    found = [process]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def cpu_seconds(process: int) -> float:
    """What a process has used until now; 0 where it is gone."""
    try:
        fields = _stat(process)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS  # in the user's and in the system's code


def _stat(process: int) -> list[str]:
    """Of the kernel's record of a process: state, parent, ..."""
    return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()


def give_way(process: int, nice: int) -> None:
    """Put the process's whole session as far behind as its nice value says.

    Where Linux groups processes by session (autogroup), groups share the cores, and nice values
    count within a group alone. One change is taken in a tenth of a second: call it again.
    """
    group = Path(f'/proc/{process}/autogroup')
    with suppress(OSError):  # there is none, or it was too soon
        if not group.read_text().endswith(f'nice {nice}\n'):
            group.write_text(str(nice))


def end(process: int) -> None:
    """SIGKILL a process and all below it, children first."""
    for member in reversed(family(process)):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def end_with_parent() -> None:
    """From now on this process does not outlive the one that started it, nor do its children."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end(os.getpid())

    threading.Thread(target=watch, daemon=True).start()
