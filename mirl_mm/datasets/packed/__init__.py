"""Images packed in a few large tar files, as a file backend of MMEngine: ``packed://FOLDER/NAME``.

A network file system gives out few large files faster than a million small ones. A packed folder
(tools/pack_images.py writes it) holds

    shard-00000.tar ...   the files as they were, under their relative names; any tar reads them
    index.npy             where each lies: name, shard, offset, size, CRC-32; sorted by name
    manifest.json         number of images and size of every shard; written last

Every dataset that reads through MMEngine's file backends takes ``packed://FOLDER`` for a folder of
files or of class folders. Access is by index: samplers, shuffling and resuming work as ever.
"""

import os
import posixpath
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import numpy as np
from mmengine.fileio import BaseStorageBackend, register_backend

from mirl_mm.errors import PackedError, UserError
from mirl_mm.files import is_like, parsed

SCHEME = 'packed://'
MANIFEST = 'manifest.json'
INDEX = 'index.npy'
FIELDS = ('name', 'shard', 'offset', 'size', 'crc32')
FORMAT = 'mirl_mm packed images, version 1'
PACK_AGAIN = 'run tools/pack_images.py again with the same folders'
REPAIR = f'remove it and {PACK_AGAIN}, which writes that shard alone'


def read_index(path: Path) -> np.ndarray:
    """The rows of an index; changes of them stay in memory. PackedError where it is none."""
    try:
        rows = np.load(path, mmap_mode='c', allow_pickle=False)
        if (rows.ndim, *(rows.dtype[name].kind for name in FIELDS)) != (1, *'Suuuu'):
            raise TypeError(f'its type is {rows.dtype}')
    except Exception as error:  # numpy raises what it likes
        raise PackedError(f'{path} cannot be read ({error}); {PACK_AGAIN}') from error
    return rows


class Packed:
    """An open packed folder; PackedError where a part is missing or not of the written size."""

    def __init__(self, root: str | Path) -> None:
        self.root, where = Path(root), Path(root) / MANIFEST
        try:
            manifest = parsed(where.read_text(errors='replace'))
        except OSError as error:
            said = f'packing into {root} was not finished: {error}'
            raise PackedError(f'{said}; {PACK_AGAIN}') from error
        kinds = dict(images=int, shards=[dict(file=str, bytes=int)])
        if not is_like(manifest, kinds) or manifest.get('format') != FORMAT:
            said = f'is damaged or is not of the format {FORMAT!r}'
            raise PackedError(f'{where} {said}; {PACK_AGAIN}')
        if far := [x for s in manifest['shards'] if Path(x := s['file']).name != x]:
            raise PackedError(f'{where} lists {far[0]!r}; accepted are names of files beside it')
        self.shards = [self.root / shard['file'] for shard in manifest['shards']]
        for path, shard in zip(self.shards, manifest['shards'], strict=True):
            found, wanted = path.stat().st_size if path.is_file() else None, shard['bytes']
            if found != wanted:
                state = 'is missing' if found is None else f'has {found:,} bytes'
                raise PackedError(f'shard {path} {state}, expected {wanted:,}; {REPAIR}')
        self.sizes = [shard['bytes'] for shard in manifest['shards']]
        self.index = read_index(index := self.root / INDEX)
        self.names = np.ascontiguousarray(self.index['name'])  # a search would touch every row
        if len(self.names) != manifest['images']:
            said = f'lists {len(self.names):,} images, {MANIFEST} says {manifest["images"]:,}'
            raise PackedError(f'{index} {said}; {PACK_AGAIN}')
        self._files: dict[int, int] = {}

    def find(self, name: str) -> int | None:
        """Row of an image in the index."""
        row = bisect_left(self.names, os.fsencode(name))
        found = row < len(self.names) and self.names[row] == os.fsencode(name)
        return row if found else None

    def below(self, folder: str) -> range:
        """Rows of the images below a folder; '' is the whole."""
        if not folder:
            return range(len(self.names))
        first, end = (os.fsencode(f'{folder}{mark}') for mark in '/0')  # 0 comes after /
        return range(bisect_left(self.names, first), bisect_left(self.names, end))

    def read(self, row: int) -> bytes:
        """The content of an image; PackedError where the shard does not hold what was packed."""
        place = self.index[row]
        number, offset, size = (int(place[key]) for key in ('shard', 'offset', 'size'))
        if number >= len(self.shards) or offset + size > self.sizes[number]:
            said = f'{self.root / INDEX} places row {row:,} where no shard reaches'
            raise PackedError(f'{said}; {PACK_AGAIN}')
        if number not in self._files:
            self._files[number] = os.open(self.shards[number], os.O_RDONLY)
        content = os.pread(self._files[number], size, offset)  # moves no position: fork-safe
        if crc32(content) != place['crc32']:
            what = f'{os.fsdecode(place["name"])} ({size:,} bytes from {offset:,} on)'
            said = f'shard {self.shards[number]} is corrupt: {what} is not what was packed'
            raise PackedError(f'{said}; {REPAIR}')
        return content

    def __del__(self) -> None:
        for file in getattr(self, '_files', {}).values():
            os.close(file)


@register_backend('packed', prefixes='packed', force=True)
class PackedBackend(BaseStorageBackend):
    """Read ``packed://FOLDER/NAME``, where FOLDER is packed and NAME is as it was before."""

    def __init__(self) -> None:
        self._open: dict[str, Packed] = {}

    def get(self, filepath: str | Path) -> bytes:
        packed, name = self._locate(filepath)
        row = packed.find(name)
        if row is None:
            raise FileNotFoundError(f'no {name!r} in the packed images {packed.root}')
        return packed.read(row)

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        return self.get(filepath).decode(encoding)

    def exists(self, filepath: str | Path) -> bool:
        return self.isfile(filepath) or self.isdir(filepath)

    def isfile(self, filepath: str | Path) -> bool:
        with suppress(FileNotFoundError):
            packed, name = self._locate(filepath)
            return packed.find(name) is not None
        return False

    def isdir(self, filepath: str | Path) -> bool:
        with suppress(FileNotFoundError):
            packed, name = self._locate(filepath)
            return len(packed.below(name)) > 0
        return False

    def join_path(self, filepath: str | Path, *filepaths: str | Path) -> str:
        return posixpath.join(str(filepath), *map(str, filepaths))

    def list_dir_or_file(
        self, dir_path: str | Path, list_dir=True, list_file=True, suffix=None, recursive=False
    ) -> Iterator[str]:
        """As MMEngine's backends: paths relative to ``dir_path``."""
        packed, folder = self._locate(dir_path)
        start = len(folder) + 1 if folder else 0
        seen: set[str] = set()
        for row in packed.below(folder):
            name = os.fsdecode(packed.names[row])[start:]
            parts = name.split('/')
            if list_dir:
                depth = len(parts) if recursive else min(2, len(parts))
                parents = ['/'.join(parts[:n]) for n in range(1, depth)]
                yield from (parent for parent in parents if parent not in seen)
                seen.update(parents)
            wanted = list_file and (recursive or len(parts) == 1)
            if wanted and (suffix is None or name.endswith(suffix)):
                yield name

    def _locate(self, path: str | Path) -> tuple[Packed, str]:
        """The packed folder of a path, and what follows it."""
        if not str(path).startswith(SCHEME):
            raise UserError(f'{path} does not start with {SCHEME}')
        path = posixpath.normpath(os.path.expanduser(str(path).removeprefix(SCHEME)))
        for root, packed in self._open.items():
            if path == root or path.startswith(f'{root}/'):
                return packed, path[len(root) + 1 :]
        for root in (Path(path), *Path(path).parents):
            if (root / MANIFEST).is_file() or (root / 'shard-00000.tar').is_file():
                self._open[str(root)] = Packed(root)
                return self._locate(SCHEME + path)
        said = f'no packed images in {path} or above it; tools/pack_images.py writes them'
        raise FileNotFoundError(said)
