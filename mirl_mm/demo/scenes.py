"""Scenes of the demo: textured objects over real photographs, drawn from a seed, no download.

A class is a shape of a material, and its tint is free: no colour names it. One to three objects,
four to seven tenths of a scene across: a task that a small encoder learns in minutes. Val sees the
left third of every photograph and the left half of every material, the others the rest: no pixel is
in both. All are in scikit-image's wheel (in 0.22 to 0.26).

S side of a scene in pixels, N objects of a scene, C corners of an outline; points are (x, y).
"""

import functools
import importlib.resources
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from skimage.filters import gaussian

CLASSES = ('disc', 'cross', 'triangle')
PALETTE = ((220, 60, 60), (250, 170, 40), (60, 110, 220))
MASK_CLASSES, MASK_PALETTE = ('background', *CLASSES), ((0, 0, 0), *PALETTE)  # of the PNGs
SPLITS = ('train', 'val', 'unlabelled')
LABELLED = SPLITS[:2]
MIN_SIZE = 64

PHOTOGRAPHS = ('astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png')
PHOTOGRAPHS += ('rocket.jpg', 'hubble_deep_field.jpg', 'ihc.png')
MATERIALS = dict(zip(CLASSES, ('gravel.png', 'brick.png', 'grass.png'), strict=True))
VERSION = 2  # raise it when the same parameters would draw other scenes


class Scene(NamedTuple):
    image: np.ndarray  # uint8 [S,S,3]
    labels: np.ndarray  # int [N], indices into CLASSES
    masks: np.ndarray  # bool [N,S,S], the visible pixels


class _Object(NamedTuple):
    label: int
    radius: float
    centre: np.ndarray
    angle: float  # radians
    corners: np.ndarray  # [C,2]
    coverage: np.ndarray  # float [S,S] in 0..1, the whole shape with soft edges


def _corners(count: int, radius: float) -> np.ndarray:
    """Corners [C,2] of a regular polygon around the origin."""
    angle = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


_ARM, _TURN = np.array([[1, -0.3], [1, 0.3], [0.3, 0.3]]), np.array([[0.0, 1.0], [-1.0, 0.0]])
OUTLINES = {
    'disc': _corners(64, 1.0),
    'cross': np.concatenate([_ARM @ np.linalg.matrix_power(_TURN, k) for k in range(4)]),
    'triangle': _corners(3, 1.15),
}


@functools.cache
def _region(name: str, split: str) -> Image.Image:
    """The part of a scikit-image picture that belongs to one split."""
    with (importlib.resources.files('skimage') / 'data' / name).open('rb') as file:
        picture = Image.open(file)
        picture.load()
    cut = round(picture.width * (1 / 3 if name in PHOTOGRAPHS else 1 / 2))
    left, right = (0, cut) if split == 'val' else (cut, picture.width)
    return picture.crop((left, 0, right, picture.height))


def _crop(rng: np.random.Generator, picture: Image.Image, spans: tuple, side: int) -> Image.Image:
    """A random square of `spans` (least, most) pixels, if there are as many, resized to `side`."""
    least, most = (min(each, *picture.size) for each in spans)
    span = int(rng.uniform(least, most))
    left, top = (int(rng.integers(0, length - span + 1)) for length in picture.size)
    square = picture.crop((left, top, left + span, top + span))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def _background(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    """The most structured of three crops [S,S,3] in 0..1, flipped, its light and colours varied."""
    photograph = _region(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))], split)
    spans = 0.75 * size, 2.5 * size
    crops = [np.asarray(_crop(rng, photograph, spans, size)) for _ in range(3)]
    pixels = max(crops, key=np.std) / 255
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, size=3)
    return np.clip(pixels ** rng.uniform(0.8, 1.1) * gain, 0, 1)


def _coverage(corners: np.ndarray, size: int) -> np.ndarray:
    """The share of every pixel [S,S] that lies inside the outline `corners` [C,2]."""
    canvas = Image.new('L', (4 * size, 4 * size))
    ImageDraw.Draw(canvas).polygon((4 * corners).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(4)) / 255


def _area(corners: np.ndarray) -> float:
    """What the outline [C,2] encloses, border of the picture or not (the shoelace formula)."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _place(rng: np.random.Generator, size: int) -> tuple[list[_Object], np.ndarray]:
    """Objects front to back, and the pixels [N,S,S] that show of each.

    A later candidate lies behind all before it, so what an accepted object shows never changes
    again. One that shows too little of itself (behind others, beyond the border) is thrown away.
    """
    wanted = rng.integers(1, 4)
    objects, masks, taken = [], [], np.zeros((size, size), bool)
    while len(objects) < wanted:
        label = int(rng.integers(len(CLASSES)))
        radius = size * rng.uniform(0.2, 0.33)
        centre = size * rng.uniform(0.2, 0.8, size=2)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = radius * OUTLINES[CLASSES[label]] * [1, rng.uniform(0.7, 1)] @ turn + centre
        thing = _Object(label, radius, centre, angle, corners, _coverage(corners, size))
        shown = (thing.coverage >= 0.5) & ~taken
        if shown.sum() >= 0.6 * _area(thing.corners):
            objects.append(thing)
            masks.append(shown)
            taken |= shown
    return objects, np.stack(masks)


def _material(rng: np.random.Generator, thing: _Object, split: str, size: int) -> np.ndarray:
    """The object's texture [S,S,3], turned with it and tinted, where it belongs in the scene."""
    side = 2 * math.ceil(1.25 * thing.radius)
    region = _region(MATERIALS[CLASSES[thing.label]], split)
    grain = _crop(rng, region, (2.5 * side, 4 * side), math.ceil(1.5 * side))
    grain = grain.rotate(-math.degrees(thing.angle), Image.Resampling.BICUBIC)
    margin = (grain.width - side) // 2  # what a turned square leaves empty
    grain = grain.crop((margin, margin, margin + side, margin + side))
    scene = Image.new('L', (size, size))
    scene.paste(grain, tuple(round(c) - side // 2 for c in thing.centre))
    contrast = np.clip(0.5 + 0.25 * (np.asarray(scene) - np.mean(grain)) / np.std(grain), 0, 1)
    tint = rng.uniform(0.25, 1, size=3)
    return (0.25 + contrast[..., None]) * tint / tint.max() * rng.uniform(0.75, 1)


def _paint(
    rng: np.random.Generator, picture: np.ndarray, thing: _Object, light: np.ndarray, split: str
) -> np.ndarray:
    """`picture` [S,S,3] with one object more: its shadow on all behind it, then its lit body.

    `light` is the unit vector (x, y) towards the light.
    """
    size, soft = len(picture), 0.12 * thing.radius
    slope_y, slope_x = np.gradient(gaussian(thing.coverage, soft))
    edge = -2.5 * soft * (slope_x * light[0] + slope_y * light[1])
    y, x = (np.mgrid[:size, :size] + 0.5 - thing.centre[::-1, None, None]) / thing.radius
    shade = 1 + 0.4 * edge + 0.2 * (x * light[0] + y * light[1])
    body = np.clip(_material(rng, thing, split, size) * shade[..., None], 0, 1)
    shifted = _coverage(thing.corners - 0.18 * thing.radius * light, size)
    shadow = 0.55 * gaussian(shifted, 1.5 * soft)[..., None]
    alpha = thing.coverage[..., None]
    return body * alpha + picture * (1 - shadow) * (1 - alpha)


def draw_scene(split: str, index: int, size: int = 128, seed: int = 0) -> Scene:
    """The scene number `index` of a split. It depends on these arguments alone, not on others."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    objects, masks = _place(rng, size)
    direction = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(direction), np.sin(direction)])
    picture = _background(rng, split, size)
    for thing in reversed(objects):
        picture = _paint(rng, picture, thing, light, split)
    image = np.rint(255 * picture).astype(np.uint8)
    return Scene(image, np.array([thing.label for thing in objects]), masks)


def with_bands(scene: Scene) -> np.ndarray:
    """Red, green, blue, nearness and heat, uint16 [S,S,5].

    The ground comes nearer from the top to the bottom; before it stand the objects, one before the
    other. What is dark keeps more of the light's heat, which spreads by 2 pixels.
    """
    near = np.linspace(0, 0.5, len(scene.image))[:, None].repeat(len(scene.image), axis=1)
    for place, mask in enumerate(scene.masks):  # front to back
        near[mask] = 1 - 0.5 * place / len(scene.masks)
    bands = [near, gaussian(1 - scene.image.mean(axis=2) / 255, 2)]
    pixels = np.dstack([scene.image / 255, *bands]).clip(0, 1)
    return np.rint(65535 * pixels).astype(np.uint16)
