"""Packing a folder of images into tar shards that ``packed://`` reads, and checking them.

Every shard is written under another name, read back, compared with what went in, and only then
renamed; the manifest comes last. So a packed folder is whole or says that it is not, and an
interrupted run goes on where it stopped.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from mirl_mm.errors import PackedError, UserError
from mirl_mm.files import complete_file, remove_parts, write_complete

from ..listing import is_image, list_files
from . import FORMAT, INDEX, MANIFEST, Packed, read_index

READ_AHEAD = 64  # images that are read at once
File = tuple[str, bytes, int]  # name, content, time of the last change


class Result(NamedTuple):
    images: int
    bytes: int
    shards: int
    kept: int  # shards that were there already


def pack_images(
    source: str | Path,
    destination: str | Path,
    names: Sequence[str] | None = None,
    shard_bytes: int = 512 << 20,
    workers: int = 8,
    progress: Callable[[int], None] = lambda images: None,
) -> Result:
    """Pack files of a folder; what was packed before from the same files is kept.

    `destination` is new, empty or was packed to before; `names` are relative to `source` (None:
    all images below it); a shard is full with `shard_bytes`; `workers` are threads that read;
    `progress` is called with the number of images that were done since.
    """
    source, destination = Path(source), Path(destination)
    names = check(source, destination, names, shard_bytes)
    parts, kept, first = [], 0, 0
    with ThreadPoolExecutor(workers) as pool:
        while first < len(names):
            shard, left = destination / f'shard-{len(parts):05d}.tar', names[first:]
            part = packed_before(shard, source, left, shard_bytes)
            if part is None:
                (destination / MANIFEST).unlink(missing_ok=True)
                part = write_shard(shard, sources(source, left, pool), shard_bytes, progress)
            else:
                kept += 1
                progress(len(part))
            part['shard'] = len(parts)
            parts.append(part)
            first += len(part)
    index = np.concatenate(parts)
    finish(destination, index, len(parts))
    return Result(len(index), int(index['size'].sum()), len(parts), kept)


def check(source: Path, destination: Path, names: Sequence | None, shard_bytes: int) -> list[str]:
    """The names to pack, sorted and each once. Makes the destination."""
    if not source.is_dir():
        raise FileNotFoundError(f'no such folder of images: {source}')
    if shard_bytes < 1:
        raise UserError(f'shard_bytes must be at least 1, got {shard_bytes}')
    if names is None:
        names = list_files(source, is_image)
    if not names:
        raise UserError(f'no image to pack in {source}')
    if outside := [name for name in names if name[0] == '/' or '..' in name.split('/')]:
        raise UserError(f'{outside[0]!r} would leave the folder; accepted are names below {source}')
    inside = os.listdir(destination) if destination.is_dir() else []
    ours = ('shard-', MANIFEST, INDEX)
    foreign = sorted(name for name in inside if not name.removeprefix('.').startswith(ours))
    if foreign:
        wanted = 'accepted is a new or empty folder, or one that was packed to before'
        raise UserError(f'{destination} holds {foreign[:3]}; {wanted}')
    destination.mkdir(parents=True, exist_ok=True)
    remove_parts(destination)
    return sorted(set(names))


def sources(folder: Path, names: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[File]:
    """The files in order, some of them read ahead."""

    def read(name: str) -> File:
        with (folder / name).open('rb') as file:
            return name, file.read(), int(os.fstat(file.fileno()).st_mtime)

    for first in range(0, len(names), READ_AHEAD):
        yield from pool.map(read, names[first : first + READ_AHEAD])


def write_shard(shard: Path, files: Iterator[File], full: int, progress: Callable) -> np.ndarray:
    """Write files until the shard has `full` bytes, and check it; its part of the index."""
    rows = []
    with complete_file(shard) as unfinished:
        with tarfile.open(unfinished, 'w') as tar:
            for name, content, mtime in files:
                header = tarfile.TarInfo(name)
                header.size, header.mtime = len(content), mtime
                tar.addfile(header, BytesIO(content))
                start = tar.offset - whole_blocks(len(content))
                rows.append((os.fsencode(name), 0, start, len(content), crc32(content)))
                progress(1)
                if tar.offset >= full:
                    break
        longest = max(len(row[0]) for row in rows)
        fields = [('shard', '<u4'), ('offset', '<u8'), ('size', '<u8'), ('crc32', '<u4')]
        part = np.array(rows, [('name', f'S{longest}'), *fields])
        read_back(unfinished, part)
        write_array(shard.with_suffix('.npy'), part)
    return part


def whole_blocks(size: int | np.ndarray) -> int | np.ndarray:
    """The size rounded up to the blocks of a tar file."""
    return -(-size // 512) * 512


def write_array(path: Path, array: np.ndarray) -> None:
    with complete_file(path) as part, part.open('wb') as file:
        np.save(file, array)


def read_back(shard: Path, part: np.ndarray) -> None:
    """Compare a shard, as tarfile sees it, with its index; PackedError names the first image."""
    with shard.open('rb') as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not memory
        with tarfile.open(fileobj=file, mode='r:') as tar:
            for row in part:
                member, name = tar.next(), os.fsdecode(row['name'])
                place = member and (member.name, member.offset_data, member.size)
                if place != (name, row['offset'], row['size']):
                    said = f'{place} is where {name} should be; is the disk full?'
                    raise PackedError(f'{shard}: {said}')
                if crc32(tar.extractfile(member).read()) != row['crc32']:
                    raise PackedError(f'{shard}: {name} is not what was written; check the disk')
                tar.members.clear()  # or it keeps every header


def packed_before(shard: Path, source: Path, names: list, shard_bytes: int) -> np.ndarray | None:
    """The part of the index of a shard that is there already, if it holds the next names."""
    try:
        part, written = read_index(shard.with_suffix('.npy')), shard.stat()
    except (OSError, PackedError):
        return None
    ends = whole_blocks((part['offset'] + part['size']).astype(np.int64))
    full = np.flatnonzero(ends >= shard_bytes)
    length = full[0] + 1 if len(full) else len(names)
    same = [os.fsdecode(name) for name in part['name']] == names[:length]
    if not same or written.st_size < ends.max(initial=0):
        return None
    for name, size in zip(names, part['size'].tolist(), strict=False):
        now = (source / name).stat()
        if now.st_size != size or now.st_mtime > written.st_mtime:
            return None
    return part


def finish(destination: Path, index: np.ndarray, number: int) -> None:
    """Index and manifest of so many shards; those of an earlier, longer list go."""
    shards = [destination / f'shard-{i:05d}.tar' for i in range(number)]
    files = [dict(file=path.name, bytes=path.stat().st_size) for path in shards]
    manifest = dict(format=FORMAT, images=len(index), shards=files)
    target, text = destination / MANIFEST, json.dumps(manifest, indent=1) + '\n'
    if target.is_file() and target.read_text() == text:
        return
    target.unlink(missing_ok=True)
    for path in sorted(destination.glob('shard-*')):
        if path.with_suffix('.tar') not in shards:
            path.unlink()
    write_array(destination / INDEX, index[np.argsort(index['name'], kind='stable')])
    write_complete(target, text.encode())


def verify(folder: str | Path, progress: Callable[[int], None] = lambda images: None) -> list[str]:
    """Read every packed image; one message for each that is not what was packed."""
    packed, broken = Packed(folder), []
    for row in np.argsort(packed.index, order=('shard', 'offset')).tolist():
        try:
            packed.read(row)
        except (PackedError, OSError) as error:
            broken.append(str(error))
        progress(1)
    return broken
