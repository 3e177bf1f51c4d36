"""The files below a folder, remembered between starts.

Listing the 1.28 million files of ImageNet takes from seconds to many minutes, by the file system.
A remembered list is trusted folder by folder: a folder whose modification time is still the same
has the same entries, so only changed folders are read again. What lies *in* a file is not watched,
and does not matter to a list.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from logging import WARNING
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

CACHE = '~/.cache/mirl_mm'
MIN_FILES = 10_000  # fewer are listed in no time
SETTLED = 2_000_000_000  # ns; a folder changed later than this before it was read is read again


class Folder(NamedTuple):
    """One folder as it was read."""

    mtime: int  # ns; 0 where it was too young to be trusted
    folders: list[str]  # names, sorted
    files: list[str]  # names of the accepted files, sorted


def list_files(
    root: str | Path, accepts: Callable[[str], bool], kind: str = '', cache: str | None = None
) -> list[str]:
    """Paths of the accepted files below `root`, relative to it and sorted.

    As MMEngine's local backend lists them: links are followed, hidden files are left out.

    Args:
        root: a local folder.
        accepts: whether a file of this name is wanted.
        kind: what `accepts` depends on; other kinds are remembered apart.
        cache: folder to remember long lists in. None: neither look nor remember.
    """
    store = cache and Path(cache).expanduser() / f'list-{digest(root, kind)}.npz'
    known = load(store) if store else {}
    tree, fresh = read_tree(str(root), accepts, known)
    names = [
        f'{folder}/{name}' if folder else name
        for folder, entry in tree.items()
        for name in entry.files
    ]
    names.sort()  # mostly is
    if store and fresh and len(names) >= MIN_FILES:
        save(store, tree)
    return names


def read_list(path: str | Path, accepts: Callable[[str], bool]) -> list[str]:
    """The file names of a list, one a line; what follows behind a space (a label) is left out.

    Raises:
        FileNotFoundError: There is no such list.
    """
    if not fileio.isfile(path):
        raise FileNotFoundError(f'no such list of images: {path}; one path a line is accepted')
    lines = (line.strip() for line in fileio.list_from_file(path))
    names = (line if accepts(line) else line.rpartition(' ')[0] for line in lines)
    return [name for name in names if accepts(name)]


def digest(root: str | Path, kind: str) -> str:
    return hashlib.sha256(f'{os.path.realpath(root)}\0{kind}'.encode()).hexdigest()[:16]


def read_tree(
    root: str, accepts: Callable[[str], bool], known: dict[str, Folder]
) -> tuple[dict[str, Folder], bool]:
    """All folders by their path relative to `root`, and whether any differs from the known."""
    tree: dict[str, Folder] = {}
    waiting, fresh = [''], False
    while waiting:
        path = waiting.pop()
        folder = known.get(path)
        if folder is None or folder.mtime != os.stat(os.path.join(root, path)).st_mtime_ns:
            folder, fresh = read_folder(os.path.join(root, path), accepts), True
        tree[path] = folder
        prefix = f'{path}/' if path else ''
        waiting.extend(prefix + name for name in reversed(folder.folders))
    return tree, fresh


def read_folder(path: str, accepts: Callable[[str], bool]) -> Folder:
    """The entries of one folder."""
    mtime = os.stat(path).st_mtime_ns  # before: what comes meanwhile makes it older than the folder
    folders, files = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif accepts(entry.name) and not entry.name.startswith('.') and entry.is_file():
                files.append(entry.name)
    if time.time_ns() - mtime < SETTLED:
        mtime = 0
    return Folder(mtime, sorted(folders), sorted(files))


def load(store: Path) -> dict[str, Folder]:
    """What was saved; nothing where there is nothing, or nothing that can be read."""
    try:
        with np.load(store, allow_pickle=False) as saved:
            mtimes, counts = saved['mtimes'].tolist(), saved['counts'].tolist()
            paths, files = (unpack(saved[key]) for key in ('paths', 'files'))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}
    tree, first = {}, 0
    for path, mtime, count in zip(paths, mtimes, counts, strict=True):
        tree[path] = Folder(mtime, [], files[first : first + count])
        first += count
    for path in paths[1:]:  # all but the root itself
        parent, _, name = path.rpartition('/')
        tree[parent].folders.append(name)
    return tree


def save(store: Path, tree: dict[str, Folder]) -> None:
    """Write all at once, or say why not."""
    content = dict(
        paths=pack(list(tree)),
        mtimes=np.array([folder.mtime for folder in tree.values()], np.int64),
        counts=np.array([len(folder.files) for folder in tree.values()], np.int64),
        files=pack([name for folder in tree.values() for name in folder.files]),
    )
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=store.parent, delete=False) as file:
            np.savez(file, **content)
        os.replace(file.name, store)
    except OSError as error:
        print_log(
            f'the list of files is not remembered, and made anew at every start: {error}; another '
            'folder can be given as list_cache',
            logger='current',
            level=WARNING,
        )


def pack(names: list[str]) -> np.ndarray:
    """Strings as bytes; no name of a file has a zero in it."""
    return np.frombuffer(os.fsencode('\0'.join(names)), np.uint8)


def unpack(content: np.ndarray) -> list[str]:
    return os.fsdecode(content.tobytes()).split('\0')
