"""The demo's scenes on disk, in the layouts that pre-training, detection and segmentation read."""

import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from mirl_mm.engine.machine import cores, in_processes
from mirl_mm.errors import UserError
from mirl_mm.files import read_json

from .scenes import CLASSES, LABELLED, MASK_PALETTE, MIN_SIZE, VERSION, draw_scene, with_bands

MANIFEST = 'scenes.json'


class SceneSet(NamedTuple):
    """Where the files of a written set lie; `split` is 'train', 'val' or, images, 'unlabelled'."""

    root: Path

    def pair(self, split: str, number: int) -> tuple[Path, Path]:
        """The image and the mask with a number from 1 on."""
        return self.images(split) / f'{number:06d}.jpg', self.masks(split) / f'{number:06d}.png'

    def images(self, split: str) -> Path:
        return self.root / 'images' / split

    def masks(self, split: str) -> Path:
        return self.root / 'masks' / split

    def annotations(self, split: str) -> Path:
        return self.root / 'annotations' / f'instances_{split}.json'


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: runs down the columns, the first of them of zeros."""
    pixels = np.concatenate([[False], mask.ravel(order='F')])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return dict(size=list(mask.shape), counts=np.diff([0, *edges, mask.size]).tolist())


def _instance(mask: np.ndarray, label: int) -> dict:
    """The part of a COCO annotation that one visible mask [S,S] decides."""
    spans = [np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1)]  # columns, rows
    corner, extent = [int(s[0]) for s in spans], [int(s[-1] + 1 - s[0]) for s in spans]
    box = dict(bbox=corner + extent, area=int(mask.sum()), iscrowd=0)
    return dict(category_id=int(label) + 1, **box, segmentation=_run_lengths(mask))


def _write_split(scenes: SceneSet, split: str, count: int, size: int, seed: int) -> None:
    for folder in (scenes.images(split), scenes.masks(split), scenes.annotations(split).parent):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        image, labels, masks = draw_scene(split, number - 1, size, seed)
        image_file, mask_file = scenes.pair(split, number)
        Image.fromarray(image).save(image_file, quality=95, subsampling=0)
        indexed = Image.fromarray(np.tensordot(labels + 1, masks, axes=1).astype(np.uint8))
        indexed.putpalette(bytes(np.ravel(MASK_PALETTE).tolist()))
        indexed.save(mask_file)
        images.append(dict(id=number, file_name=image_file.name, width=size, height=size))
        for mask, label in zip(masks, labels, strict=True):
            ids = dict(id=len(annotations) + 1, image_id=number)
            annotations.append(ids | _instance(mask, label))
    info = dict(description=f'mirl_mm demo scenes, {split}')
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    content = dict(info=info, licenses=[], categories=categories, images=images)
    scenes.annotations(split).write_text(json.dumps(content | dict(annotations=annotations)))


def _write_unlabelled(scenes: SceneSet, count: int, size: int, seed: int) -> None:
    """Images alone, on the cores that there are."""
    folder = scenes.images('unlabelled')
    folder.mkdir(parents=True)

    def write(rank: int, number: int) -> None:
        for index in range(rank, count, number):
            image = Image.fromarray(draw_scene('unlabelled', index, size, seed).image)
            image.save(folder / f'{index + 1:06d}.jpg', quality=95, subsampling=0)

    in_processes(min(cores(), count), write)


def _is_complete(scenes: SceneSet, manifest: dict) -> bool:
    """Whether the folder says that it is this set, and every file of it is there."""
    if read_json(scenes.root / MANIFEST) != manifest:
        return False
    files = [scenes.annotations(split) for split in LABELLED]
    unlabelled = range(1, manifest['num_unlabelled'] + 1)
    files += [scenes.images('unlabelled') / f'{number:06d}.jpg' for number in unlabelled]
    for split in LABELLED:
        for number in range(1, manifest[f'num_{split}'] + 1):
            files += scenes.pair(split, number)
    return all(file.is_file() for file in files)


def write_scenes(
    out_dir: str | Path,
    num_train: int = 256,
    num_val: int = 128,
    size: int = 128,
    seed: int = 0,
    num_unlabelled: int = 0,
) -> SceneSet:
    """Writes a set of scenes, or leaves it alone if just this set is in `out_dir` already.

    Masks are palette PNGs of indices into MASK_CLASSES, annotations COCO instances as run lengths
    (what lies before an object may part it, which is easy to say so; mmdet reads them with its
    default poly2mask=True). The unlabelled are images alone, of the pixels of train. The same
    arguments and library versions give the same bytes. Another set in `out_dir`, or one with files
    missing, is replaced as a whole: never is there half a set.
    """
    manifest = dict(num_train=num_train, num_val=num_val, size=size, seed=seed)
    manifest |= dict(num_unlabelled=num_unlabelled)
    for (name, value), least in zip(manifest.items(), (1, 1, MIN_SIZE, 0, 0), strict=True):
        if not isinstance(value, int) or value < least:
            raise UserError(f'{name} is {value!r}; accepted is a whole number from {least} on')
    manifest |= dict(generator='mirl_mm.demo.scene_set', version=VERSION)
    root = Path(out_dir).resolve()
    scenes = SceneSet(root)
    if _is_complete(scenes, manifest):
        return scenes
    try:
        inside = set(os.listdir(root)) if root.exists() else set()  # an OSError for a file
        foreign = inside - {'images', 'masks', 'annotations', 'bands', MANIFEST}
        if foreign or (inside and MANIFEST not in inside):
            wanted = f'a new or empty folder, or one with nothing but scenes (and their {MANIFEST})'
            said = f'out_dir {root} holds {sorted(foreign or inside)}, which would be lost'
            raise UserError(f'{said}; accepted is {wanted}')
        root.parent.mkdir(parents=True, exist_ok=True)
        workshop = tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent)
    except OSError as error:
        wanted = 'accepted is a folder, new or not, inside one that you may write'
        raise UserError(f'out_dir {root} cannot be written ({error}); {wanted}') from error
    with workshop as folder:
        fresh = SceneSet(Path(folder) / 'fresh')
        for split in LABELLED:
            _write_split(fresh, split, manifest[f'num_{split}'], size, seed)
        if num_unlabelled:
            _write_unlabelled(fresh, num_unlabelled, size, seed)
        (fresh.root / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        if not _is_complete(scenes, manifest):  # unless another process was faster
            if root.exists():
                root.rename(Path(folder) / 'replaced')
            fresh.root.rename(root)
    return scenes


def write_bands(scenes: SceneSet) -> Path:
    """The images of a set once more, as TIFF of 5 channels (:func:`with_bands`), in ``bands/``."""
    made = json.loads((scenes.root / MANIFEST).read_text())
    for split in LABELLED:
        folder = scenes.root / 'bands' / split
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(made[f'num_{split}']):
            pixels = with_bands(draw_scene(split, index, made['size'], made['seed']))
            tifffile.imwrite(folder / f'{index + 1:06d}.tif', pixels, photometric='rgb')
    return scenes.root / 'bands'
