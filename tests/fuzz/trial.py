"""A reader is given damaged files, and held to what it promises.

It works, or it raises what a tool says in one line. It is done soon, in little memory. It starts
nothing, connects to nothing, and writes nothing but below ``out``.
"""

import os
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from mirl_mm.errors import reason_of

from .damage import Damage, of_bytes

SECONDS, MEMORY = 60, 2 << 30  # of one reading; bytes of addresses beside what there is
ACTIONS = re.compile(
    r'os\.(system|exec|posix_spawn|spawn|fork|forkpty|remove|rename|mkdir|rmdir|chmod|chown|link|'
    r'symlink|truncate|kill)|subprocess\.|pty\.|socket\.(connect|bind|getaddrinfo)|'
    r'shutil\.|ctypes\.dlopen|urllib\.'
)


class Reader(NamedTuple):
    """A row of READERS."""

    seed: Callable[[Path], Path]  # writes sound files into a folder; the one to damage
    read: Callable[[Path, Path], object]  # that file, as a user's command does; where to write
    damage: Damage = of_bytes
    count: int = 100  # of damaged files in the suite
    dense: bool = False  # needs mmdet or mmseg
    acts: str = ''  # what it may do: a pattern of audit events
    refuses: bool = True  # some damage; else what is damaged is left out


class Slow(BaseException):
    """A reading takes longer than it may."""


_seen: list[str] | None = None  # what has been done; None while nobody watches
_out, _acts = '', ''


def _audit(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    if event == 'open':
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        told = writes or (isinstance(mode, str) and set(mode) & set('wax+'))
    elif event == 'exec':  # of a text; a module's code is of a file
        path, told = '', not os.path.isabs(arguments[0].co_filename)
        told &= bool(arguments[0].co_names) and arguments[0].co_filename[:7] != '<frozen'
        arguments = arguments[0].co_filename, arguments[0].co_names
    else:
        arguments = arguments[::-1] if event.startswith('shutil.copy') else arguments
        path, told = arguments[0] if arguments else '', ACTIONS.match(event)
        if told and event in ('os.remove', 'os.rmdir') and arguments[-1] != -1:  # in a folder
            path = os.path.join(os.readlink(f'/proc/self/fd/{arguments[-1]}'), path)
    ours = isinstance(path, str | os.PathLike) and os.fspath(path).startswith((_out, '/dev/null'))
    if told and not ours and not (_acts and re.match(_acts, event)):
        _seen.append(f'{event}{arguments!r:.200}')


sys.addaudithook(_audit)


@contextmanager
def watched(out: Path, acts: str = '') -> Iterator[list[str]]:
    """What is done inside; Slow after so many seconds; no large memory is there to be had."""
    global _seen, _out, _acts
    sizes = re.findall(r'\d+', Path('/proc/self/statm').read_text())
    limits = resource.getrlimit(resource.RLIMIT_AS)
    here = int(sizes[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, _slow)
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _seen, _out, _acts = [], str(out), acts
    seen = _seen
    try:
        yield seen
    finally:
        _seen = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _slow(*_: object) -> None:
    raise Slow


def faults(reader: Reader, path: Path, content: bytes) -> tuple[str, str]:
    """What a reader does with a file of this content that it must not ('' for nothing), and says.

    The path is that of the sound file, which comes back.
    """
    seed = next(folder for folder in path.parents if folder.name == 'seed')
    sound, out = path.read_bytes(), seed.with_name('out')
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    path.write_bytes(content)
    before, said, fault = stamps(seed), '', ''
    with watched(out, reader.acts) as done, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            reader.read(path, out)
        except (Exception, Slow) as error:
            said = reason_of(error) if isinstance(error, Exception) else ''
            if not said:
                last = traceback.extract_tb(error.__traceback__)[-1]
                fault = f'{type(error).__name__}: {error!s:.200} ({last.filename}:{last.lineno})'
    if done:
        fault = f'it does {done[0]}'
    elif before != stamps(seed):
        fault = fault or 'it has changed files'
    path.write_bytes(sound)
    return fault, said


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    stats = ((path, path.stat()) for path in folder.rglob('*'))
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats}


def damaged(name: str, number: int, reader: Reader, sound: bytes) -> bytes:
    """The damaged file of a reader and a number, always the same."""
    return reader.damage(sound, Random(f'{name} {number}'))
