"""Files that are there whole or not at all: one writer; one probe of folders; what ships."""

import fcntl
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mirl_mm.errors import UserError, did_you_mean

_LATER: ContextVar[list | None] = ContextVar('later', default=None)


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the name when the block has ended.

    The folder is made. An older file stays until then, and for good where the block or the disk
    fails. What a killed process leaves is ``.<name>.<process>.part``; see :func:`remove_parts`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield part
        _to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _to_disk(path.parent)  # the name


def write_complete(path: str | Path, content: bytes) -> None:
    """Write bytes as :func:`complete_file` does; inside :func:`written_later`, later."""
    if (calls := _LATER.get()) is not None:
        calls.append(partial(write_complete, path, content))
        return
    with complete_file(path) as part:
        part.write_bytes(content)


@contextmanager
def written_later() -> Iterator[list[Callable[[], None]]]:
    """Inside, :func:`write_complete` of this thread writes nothing, but leaves a call that will."""
    token = _LATER.set(calls := [])
    try:
        yield calls
    finally:
        _LATER.reset(token)


def write_json(path: str | Path, content: object) -> None:
    """Write plain data as :func:`complete_file` does."""
    write_complete(path, f'{json.dumps(content, indent=1)}\n'.encode())


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; empty where there is none."""
    path = Path(path)
    return parsed(path.read_text('utf-8-sig', 'replace')) if path.is_file() else {}


def parsed(text: str) -> dict:
    """The JSON object of a text; empty where it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_like(value: object, kind: object) -> bool:
    """Whether a value is of a type (an int of 64 bits), or like a list or a dict of such."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(is_like(each, kind[0]) for each in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(is_like(value.get(k), kind[k]) for k in kind)
    return isinstance(value, kind) and not (isinstance(value, int) and abs(value) >= 2**63)


def remove_parts(folder: str | Path) -> list[str]:
    """Remove what killed processes left half written in a folder; returns the names."""
    parts = sorted(Path(folder).glob('.*.part'))
    for part in parts:
        part.unlink(missing_ok=True)
    return [part.name for part in parts]


def check_folder(path: str | Path, setting: str = '--out') -> None:
    """Make a folder and try to write into it; the OSError names the setting for another one."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        why = error.strerror or error
        raise OSError(f'cannot write to {path} ({why}); choose another {setting}') from error


def lock_folder(path: str | Path, who: str) -> list[str]:
    """Hold a folder for this process until its end, however that comes; UserError if another does.

    ``who`` is what the others are told, beside process, host and time. Returned is what to say
    where the disk knows no locks, as some network disks.
    """
    # A record lock is the process's own: its forked workers do not keep it. The file stays open.
    descriptor = os.open(Path(path) / '.lock', os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.read(descriptor, 1000).decode(errors='replace') or 'another process'
        os.close(descriptor)
        what = f'{path} is in use by {holder}'
        raise UserError(f'{what}: wait for its end, stop it, or take another --work-dir') from error
    except OSError as error:
        os.close(descriptor)
        return [f'{path} cannot be locked ({error.strerror}): see to it that no other run uses it']
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    text = f'process {os.getpid()} on {platform.node()} ({who}), since {since}'
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    return []


def shipped(name: str) -> Path:
    """Where ``configs``, ``tools`` or a file of them is: in the wheel or the checkout."""
    package = Path(__file__).parent
    inside = package / 'shipped'
    return (inside if inside.is_dir() else package.parent) / name


def config_names() -> dict[str, Path]:
    """The configs that ship, by folder and name without ending: ``mirl/vit-s54_300e``."""
    root = shipped('configs')
    paths = sorted(root.glob('[!_]*/*.py'))
    return {path.relative_to(root).with_suffix('').as_posix(): path for path in paths}


def find_config(name: str) -> str:
    """A config's path: of a file that exists, or of one that ships, with or without its folder.

    FileNotFoundError: there is no such file; UserError: several folders have one.
    """
    if '://' in name or Path(name).is_file():
        return name
    known = config_names()
    asked = name.removeprefix('configs/').removesuffix('.py')
    if asked in known:
        return str(known[asked])
    found = [each for each in known if each.rpartition('/')[2] == asked]
    if len(found) == 1:
        return str(known[found[0]])
    if found:
        raise UserError(f'config {name!r} is one of several: say {" or ".join(found)}')
    beside = [str(path) for path in Path(name).parent.glob('*.py')]
    short = [each.rpartition('/')[2] for each in known]
    near = did_you_mean(name, beside) or did_you_mean(asked, [*known, *short])
    looked = f'looked in {Path(name).parent.absolute()} and among those that mirl configs lists'
    raise FileNotFoundError(f'no such config file: {name}{near}; {looked}')


def some_of(items: Sequence, number: int | None = None) -> list:
    """So many items, or all where there are fewer, evenly spread.

    By default what is opened before a run: all of up to 5,000, else 2,000.
    """
    count = len(items)
    number = (count if count <= 5000 else 2000) if number is None else min(number, count)
    return [items[i * count // number] for i in range(number)]


@register_backend('complete')
class CompleteFileBackend(LocalBackend):
    """MMEngine's backend for local files, with complete files alone: ``backend='complete'``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_complete(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
