"""Processes, and all that they have started, also those with a session of their own."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def with_checkout() -> dict[str, str]:
    """The environment for a process that imports this checkout's packages."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))


def family(process: int) -> list[int]:
    """A process and all below it, parents first."""
    parents = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(')')[2].split()  # state, parent, ...
            parents[int(stat.parent.name)] = int(fields[1])
    found = [process]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


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
