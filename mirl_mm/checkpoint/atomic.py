"""Files that appear under their name when they are complete and on the disk, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the name when the block has ended.

    An older file stays until then, and for good where the block or the disk fails. What a killed
    process leaves behind is called ``.<name>.<process>.part``; see :func:`remove_parts`.

    Raises:
        OSError: the disk is full, the folder is gone.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield part
        _to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _to_disk(path.parent)  # the name


def write_complete(path: str | Path, content: bytes) -> None:
    """Write bytes as :func:`complete_file` does."""
    with complete_file(path) as part:
        part.write_bytes(content)


def remove_parts(folder: str | Path) -> list[str]:
    """Remove what killed processes left half written in a folder; returns the names."""
    parts = sorted(Path(folder).glob('.*.part'))
    for part in parts:
        part.unlink(missing_ok=True)
    return [part.name for part in parts]


@register_backend('complete')
class CompleteFileBackend(LocalBackend):
    """MMEngine's backend for local files, with complete files alone: ``backend='complete'``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_complete(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
