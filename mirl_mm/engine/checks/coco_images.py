"""Entries of a file in COCO's format, and the images among them: files, and sizes as seen."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from mirl_mm.errors import UserError
from mirl_mm.files import some_of

ACROSS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


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


def check_images(entries: Entries, folder: str, key: str) -> tuple[list[str], list[str]]:
    """Hold entries against the picture files; returns notes, and what was repaired in the entries.

    All files are looked for, and headers of :func:`some_of` them are read: sizes are those of the
    picture turned as its EXIF tag says, as mmdet reads it. A size that is missing is filled in.
    """
    file, _, images = entries
    for field, kind, accepted in (
        ('id', (int, float, str), 'is a number'),
        ('file_name', str, 'is a path below the folder of the images'),
    ):
        bad = [i for i in images if not isinstance(i.get(field), kind) or i[field] == '']
        entries.refuse(field, bad, accepted)
    ids, names = (Counter(image[field] for image in images) for field in ('id', 'file_name'))
    if len(ids) < len(images):
        twice = [image for image in images if ids[image['id']] > 1]
        entries.refuse('id', twice, 'is an id that no other image has')
    _check_there(file, names, folder, key)
    notes = []
    if twice := [name for name, count in names.items() if count > 1]:
        twins = f'{len(twice):,} pictures under several ids (the first is {twice[0]})'
        notes.append(f'{file} lists {twins}: what one entry marks is background in the others')
    filled = _check_sizes(entries, folder)
    if (opened := len(some_of(images))) < len(images):
        notes.append(f'{file}: the sizes of {opened:,} of {len(images):,} pictures were compared')
    words = f'width and height of {filled:,} images are those of the pictures'
    return notes, [words] if filled else []


def _check_there(file: Path, names: Sequence[str], folder: str, key: str) -> None:
    """One listing a folder, not a look at every file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for each in names:
        parent, name = os.path.split(os.path.join(folder, each))
        if parent not in listings:
            listings[parent] = (
                set(os.listdir(parent or '.')) if os.path.isdir(parent or '.') else set()
            )
        # Some file systems take names that differ in case.
        if name not in listings[parent] and not os.path.exists(os.path.join(parent, name)):
            missing.append(each)
    if missing:
        count, some = f'{len(missing):,} of {len(names):,}', len(missing) < len(names)
        how = f'set {key}.data_prefix.img to the folder of the images'
        if some or '\\' in missing[0]:
            how = 'accepted are names below that folder, with /, alike to the letter'
        there = f'there is no {Path(folder, missing[0])}'
        raise FileNotFoundError(f'{file} lists {missing[0]}, and {there}; {how} ({count} missing)')


def _check_sizes(entries: Entries, folder: str) -> int:
    """How many sizes were filled in."""
    file, _, images = entries
    bare = [image for image in images if not _is_sized(image)]
    opened, wrong = [*bare, *(image for image in some_of(images) if _is_sized(image))], []
    for i, image in enumerate(opened):
        named = f'{file}: image {image["id"]!r} ({image["file_name"]})'
        try:
            size, across = seen_size(Path(folder, image['file_name']))
        except Exception as error:  # Pillow raises what it likes; the loader names such a picture
            if i < len(bare):
                lacks = 'has no width and height, and the picture cannot be read'
                raise UserError(f'{named} {lacks}: {error}') from error
            continue
        if i < len(bare):
            image.update(width=size[0], height=size[1])
        elif size != (image['width'], image['height']):
            turned = ', turned as its EXIF tag says' if across else ''
            sizes = f'{image["width"]} x {image["height"]} pixels there and {size[0]} x {size[1]}'
            wrong.append(f'{named} has {sizes} in the picture{turned}')
    if wrong:
        count = f'{len(wrong):,} of {len(opened):,} pictures opened'
        how = 'accepted are width, height and annotations of the picture as it is seen'
        raise UserError(f'{wrong[0]} (width x height; {count}); {how}')
    return len(bare)


def _is_sized(image: dict) -> bool:
    width, height = image.get('width'), image.get('height')
    return all(isinstance(side, (int, float)) and side > 0 for side in (width, height))


def seen_size(path: Path) -> tuple[tuple[int, int], bool]:
    """(width, height) of a picture as it is seen, and whether its EXIF tag exchanges the two."""
    with Image.open(path) as picture:
        # Pillow reads all of a PNG to look for a tag at its end.
        tagged = picture.format != 'PNG' or 'exif' in picture.info
        across = tagged and picture.getexif().get(ExifTags.Base.Orientation) in ACROSS
        return (picture.size[::-1] if across else picture.size), across
