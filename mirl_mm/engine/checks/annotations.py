"""One pass over the annotations of a file in COCO's format, and what can be repaired in them."""

import gc
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from math import isfinite
from pathlib import Path

import numpy as np

from mirl_mm.datasets.class_folders import quoted
from mirl_mm.errors import UserError

from .coco_images import Entries, entry_of, repeated

FAR = 1e6  # pixels: pycocotools fails in C, and mmdet in training, on numbers of no picture
REMARKS = dict(
    tiny='are narrower than a pixel (training leaves these out)',
    outside='lie outside of their images (training leaves these out)',
    beyond='reach beyond their images by more than a pixel',
)
REPAIRS = dict(
    crowd='iscrowd of {:,} annotations is a number, 0 where there was none',
    area='area of {:,} annotations is that of the outline, or of the box',
    number='id of {:,} annotations is a number of its own',
)


def read_annotations(file: Path) -> tuple[dict, str]:
    """What is in the file, and its encoding."""
    text = file.read_bytes()
    gc.disable()  # the collector would look through millions of new objects over and over
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file} is no valid JSON: {error}') from error
    finally:
        gc.enable()
    if not isinstance(content, dict):
        accepted = 'accepted are COCO annotations, dict(images=[...], annotations=[...], ...)'
        raise UserError(f'{file} holds a {type(content).__name__} (detections?); {accepted}')
    return content, json.detect_encoding(text)


def check_annotations(
    file: Path, content: dict, classes: Sequence[str], masks: bool, alone: bool
) -> tuple[list[str], list[str]]:
    """Refuse what cannot be trained or evaluated; returns notes, and what :func:`repair` does.

    masks: outlines are needed. alone: no other file is read for the same split.
    """
    entries = Entries.of(file, content, 'annotations')
    images = {image['id']: image for image in content['images']}
    names = {each['id']: each['name'] for each in content['categories']}
    found, objects = _sorted_out(entries.all, images, names, set(classes), masks)
    accepted = dict(
        image_id="is the id of one of its 'images'",
        category_id=f'is the id of one of its categories: {quoted(list(names))}',
        bbox='is [x, y, width, height] in pixels, below 1e6, width and height not below 0',
        segmentation='is [[x1, y1, x2, y2, x3, y3, ...], ...] in pixels, or an RLE of the size of '
        'its image',
        iscrowd='is 0 or 1',
        id='is an id that no other annotation has',
    )
    for field, how in accepted.items():
        entries.refuse(field, found[field], how, images)
    total = len(entries.all)
    for kind, most in (('outside', total / 100), ('beyond', total / 2)):
        if len(found[kind]) > most:
            how = 'is [x, y, width, height] in pixels of the image, no corners'
            entries.refuse('bbox', found[kind], how, images)
    if not objects.total() and alone:
        crowds, tiny = (f'{len(found[kind]):,} of {total:,}' for kind in ('crowds', 'tiny'))
        why = f'{crowds} annotations are crowds, {tiny} narrower than a pixel (parts of the image?)'
        raise UserError(f'{file} has no object of {quoted(classes)} to learn or find: {why}')
    notes = []
    for kind, what in REMARKS.items():
        for first in found[kind][:1]:
            named = f'{first.get("id")!r} of {images[first["image_id"]]["file_name"]}'
            of = f'{len(found[kind]):,} of {total:,} annotations'
            notes.append(f'{file}: {of} {what}; the first is {named}')
    if without := [name for name in classes if not objects[name]]:
        notes.append(f'{file} has no object of {quoted(without)}')
    return notes, [how.format(len(found[k])) for k, how in REPAIRS.items() if found[k]]


def _sorted_out(
    entries: Sequence[dict], images: Mapping, names: Mapping, classes: set[str], masks: bool
) -> tuple[dict[str, list[dict]], Counter]:
    """Annotations by what is wrong with them, and the number of objects by class."""
    found, objects = defaultdict(list), Counter()
    for entry in entries:
        image = entry_of(images, entry.get('image_id'))
        name = entry_of(names, entry.get('category_id'))
        crowd = entry.get('iscrowd')
        place = _place(entry.get('bbox'), image) if image else 'image_id'
        if place:
            found[place].append(entry)
        if name is None:
            found['category_id'].append(entry)
        elif name in classes and place not in ('image_id', 'bbox'):
            if masks and not _is_sound(entry.get('segmentation'), image):
                found['segmentation'].append(entry)
            if crowd in (1, '1'):
                found['crowds'].append(entry)
            elif place in ('', 'beyond') and not entry.get('ignore'):
                objects[name] += 1
        if crowd not in (0, 1):
            found['crowd' if crowd in (None, '', '0', '1') else 'iscrowd'].append(entry)
        if not _is_area(entry.get('area')):
            found['area'].append(entry)
        found['numbered' if _has_number(entry) else 'number'].append(entry)
    found['id'] = repeated(found['numbered'], 'id')
    return found, objects


def _place(box: object, image: Mapping) -> str:
    """Where a box lies: '' in its image, or the fault or remark."""
    width, height = image['width'], image['height']
    try:
        x, y, w, h = box
        if x >= -1 and y >= -1 and w >= 1 and h >= 1 and x + w <= width + 1 and y + h <= height + 1:
            return ''
        if not (w >= 0 and h >= 0 and all(-FAR < each < FAR for each in box)):
            return 'bbox'
    except (OverflowError, TypeError, ValueError):
        return 'bbox'
    if w < 1 or h < 1:
        return 'tiny'
    return 'outside' if x >= width or y >= height or min(x + w, y + h) <= 0 else 'beyond'


def _is_sound(outline: object, image: Mapping) -> bool:
    try:
        if isinstance(outline, dict):
            counts, size = outline['counts'], [image['height'], image['width']]
            counts = _unpacked(counts) if isinstance(counts, str) else counts
            fills = sum(counts) == size[0] * size[1] and min(counts) >= 0
            return fills and list(outline['size']) == size
        whole = all(len(p) > 5 and len(p) % 2 == 0 and isfinite(sum(p)) for p in outline)
        return whole and len(outline) > 0 and all(-FAR < min(p) <= max(p) < FAR for p in outline)
    except (KeyError, OverflowError, TypeError, ValueError):
        return False


def _unpacked(text: str) -> list[int]:
    """The counts of a packed RLE, as pycocotools' maskApi.c reads them (it fails on other sums).

    A character holds five bits, the lowest first, and whether more follow; from the fourth number
    on, each is the difference to the last but one.
    """
    counts, value, bits = [], 0, 0
    for code in text.encode():
        value |= (code - 48 & 31) << bits
        bits += 5
        if not code - 48 & 32:
            value -= (code - 48 & 16) << bits - 4  # the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = bits = 0
    return counts


def _is_area(area: object) -> bool:
    return isinstance(area, (int, float)) and area > 0


def _has_number(entry: Mapping) -> bool:
    """Whether its id can be used; pycocotools takes number 0 for no object when it evaluates."""
    return type(entry.get('id')) is int and entry['id'] != 0


def repair(content: dict) -> None:
    """Make the :data:`REPAIRS` in what stands in a file."""
    entries = content.get('annotations', [])
    numbers = count(1 + max((e['id'] for e in entries if _has_number(e)), default=0))
    for entry in entries:
        entry['iscrowd'] = int(entry.get('iscrowd') or 0)
        if not _is_area(entry.get('area')):
            entry['area'] = _area(entry)
        if not _has_number(entry):
            entry['id'] = next(numbers)


def _area(entry: Mapping) -> float:
    """Of the outline, in pixels; of the box, where there is none."""
    from pycocotools import mask

    outline, (_, _, width, height) = entry.get('segmentation'), entry['bbox']
    try:
        if isinstance(outline, dict):
            counts = outline['counts']
            area = mask.area(outline) if isinstance(counts, str) else sum(counts[1::2])
        else:  # Gauss's formula
            parts = [np.reshape(polygon, (-1, 2)).T for polygon in outline]
            area = sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in parts)
        return float(area) or width * height
    except (KeyError, TypeError, ValueError):
        return width * height
