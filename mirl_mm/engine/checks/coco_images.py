"""Entries of a file in COCO's format, and the images among them: files, and sizes as seen."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mirl_mm.datasets.decode import ACROSS, ORIENTATION
from mirl_mm.errors import UserError
from mirl_mm.files import some_of


class Entries(NamedTuple):
    """What stands in a file under 'images', 'annotations' or 'categories'."""

    file: Path
    kind: str
    all: list[dict]

    @classmethod
    def of(cls, file: Path, content: dict, kind: str) -> 'Entries':
        """Those of a parsed file; UserError where there are none."""
        found = content.get(kind)
        if not found or not isinstance(found, list) or set(map(type, found)) != {dict}:
            has = f'{found!r:.60}' if kind in content else 'not there'
            raise UserError(f'{file}: {kind!r} is {has}; accepted is a list of at least one dict')
        return cls(file, kind, found)

    def refuse(self, field: str, bad: Sequence[dict], accepted: str, of: Mapping = {}) -> None:
        """UserError for the first of the bad entries, if there are any; ``of``: images by id."""
        if not bad:
            return
        entry, value, image = bad[0], repr(bad[0].get(field)), entry_of(of, bad[0].get('image_id'))
        has = f'{field}={value if len(value) <= 80 else value[:77] + "..."}'
        which = f'{entry.get("id")!r}' + (f' of {image["file_name"]}' if image else '')
        has = f'{which} has {has if field in entry else f"no {field}"}'
        one, count = self.kind.replace('ies', 'ys')[:-1], f'{len(bad):,} of {len(self.all):,}'
        raise UserError(f'{self.file}: {one} {has} ({count} {self.kind}); accepted {accepted}')


def entry_of(entries: Mapping, number: object) -> object:
    """The entry with an id, or None, also for what can be no id."""
    try:
        return entries.get(number)
    except TypeError:
        return None


def repeated(entries: Sequence[dict], field: str) -> list[dict]:
    """The entries whose value of a field others have, too."""
    counts = Counter(entry[field] for entry in entries)
    return [e for e in entries if counts[e[field]] > 1] if len(counts) < len(entries) else []


def check_images(entries: Entries, folder: str, key: str) -> list[str]:
    """Hold entries against the picture files; returns notes.

    All files are looked for, and headers of :func:`some_of` them are read: sizes are those of the
    picture turned as its EXIF tag says, as it is read.
    """
    file, _, images = entries
    for field, kind, accepted in (
        ('id', (int, float, str), 'is a number'),
        ('file_name', str, 'is a path below the folder of the images'),
    ):
        bad = [i for i in images if not isinstance(i.get(field), kind) or i[field] == '']
        entries.refuse(field, bad, accepted)
    for side in ('width', 'height'):
        bad = [i for i in images if not (isinstance(i.get(side), (int, float)) and i[side] > 0)]
        entries.refuse(side, bad, 'is a number of pixels')
    entries.refuse('id', repeated(images, 'id'), 'is an id that no other image has')
    names = list(dict.fromkeys(image['file_name'] for image in images))
    _check_there(file, names, folder, key)
    notes = []
    if twice := list(dict.fromkeys(image['file_name'] for image in repeated(images, 'file_name'))):
        twins = f'{len(twice):,} pictures under several ids (the first is {twice[0]})'
        notes.append(f'{file} lists {twins}: what one entry marks is background in the others')
    _check_sizes(file, opened := some_of(images), folder)
    if len(opened) < len(images):
        count = f'{len(opened):,} of {len(images):,} pictures'
        notes.append(f'{file}: the sizes of {count} were compared')
    return notes


def _check_there(file: Path, names: Sequence[str], folder: str, key: str) -> None:
    @cache  # one listing a folder, not a look at every file
    def listing(parent: str) -> set[str]:
        return set(os.listdir(parent)) if os.path.isdir(parent) else set()

    missing = []
    for name in names:
        path = os.path.join(folder, name)
        parent, base = os.path.split(path)
        # Some file systems take names that differ in case.
        if base not in listing(parent or '.') and not os.path.exists(path):
            missing.append(name)
    if missing:
        how = f'set {key}.data_prefix.img to the folder of the images'
        if len(missing) < len(names) or '\\' in missing[0]:
            how = 'accepted are names below that folder, with /, alike to the letter'
        there = f'{file} lists {missing[0]}, and there is no {Path(folder, missing[0])}'
        count = f'{len(missing):,} of {len(names):,} missing'
        raise FileNotFoundError(f'{there}; {how} ({count})')


def _check_sizes(file: Path, images: Sequence[dict], folder: str) -> None:
    wrong = []
    for image in images:
        size, tag = seen_size(Path(folder, image['file_name']))
        if size and size != (image['width'], image['height']):
            turned = ', turned as its EXIF tag says' if tag in ACROSS else ''
            sizes = f'{image["width"]} x {image["height"]} pixels there and {size[0]} x {size[1]}'
            named = f'image {image["id"]!r} ({image["file_name"]})'
            wrong.append(f'{named} has {sizes} in the picture{turned}')
    if wrong:
        count = f'{len(wrong):,} of {len(images):,} pictures opened'
        how = 'accepted are width, height and annotations of the picture as it is seen'
        raise UserError(f'{file}: {wrong[0]} (width x height; {count}); {how}')


def seen_size(path: str | Path) -> tuple[tuple[int, int] | None, int]:
    """(width, height) of a picture as it is seen, and the EXIF tag that says how it is turned.

    (None, 1) for one that cannot be opened, which is left to the loader.
    """
    try:
        with Image.open(path) as picture:
            # Pillow reads all of a PNG to look for a tag at its end, and turns TIFF's size itself.
            tags = picture.getexif() if picture.format != 'PNG' or 'exif' in picture.info else {}
            across = (tag := tags.get(ORIENTATION, 1)) in ACROSS and picture.format != 'TIFF'
            return (picture.size[::-1] if across else picture.size), tag
    except Exception:  # Pillow raises what it likes
        return None, 1
