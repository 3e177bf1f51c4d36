"""Images of C channels, of 8 or 16 bits or floating point, as they are in their files."""

from collections.abc import Iterable
from io import BytesIO

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

from mirl_mm.errors import UserError

NUMPY = b'\x93NUMPY'
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # the latter two: BigTIFF


def decode_channels(content: bytes, channels: int) -> np.ndarray:
    """An image file's bytes as [H, W, C] of that many channels: uint8, or float32 for all else.

    A TIFF or an array of NumPy's (.npy) is [H, W] for one channel, or has the channels last or
    first; other formats give grey, RGB or RGBA. Numbers stay as they are stored: float32 has room
    for 16 bits. UserError: another shape, integers of more bits, values that are not finite, a tag
    that turns the picture; a broken file raises what its library does.
    """
    if channels < 1:
        raise UserError(f'channels={channels}; accepted is a number from 1 on')
    image, tag = _stored(content)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim == 3 and image.shape[2] != channels == image.shape[0]:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != channels or not image.size:
        accepted = f'[H, W, {channels}] or [{channels}, H, W]' + ' or [H, W]' * (channels == 1)
        raise UserError(f'it is of shape {list(image.shape)}, not channels={channels}: {accepted}')
    if not np.can_cast(image.dtype, np.float32) and image.dtype.kind != 'f':
        accepted = 'integers of 8 and 16 bits and floating point'
        raise UserError(f'its numbers are of type {image.dtype.name}; accepted are {accepted}')
    if tag not in (None, 0, 1):
        raise UserError(f'a tag turns it (orientation {tag}): turn its pixels, and remove the tag')
    image = np.ascontiguousarray(image, None if image.dtype == np.uint8 else np.float32)
    if wrong := image.size - np.count_nonzero(np.isfinite(image)):
        raise UserError(f'{wrong} of its {image.size} numbers are not finite: fill them in')
    return image


def _stored(content: bytes) -> tuple[np.ndarray, int | None]:
    """The array in a file, of any shape and type, and its orientation tag."""
    tag = ExifTags.Base.Orientation
    if content.startswith(NUMPY):
        return np.load(BytesIO(content), allow_pickle=False), None
    if content.startswith(TIFF):
        with tifffile.TiffFile(BytesIO(content)) as file:
            len(file.pages)  # finds pages that go in a circle; asarray would follow them on and on
            return file.asarray().squeeze(), file.pages[0].tags.valueof(tag)
    try:
        with Image.open(BytesIO(content)) as picture:
            colours = picture.convert('RGB') if picture.mode == 'P' else picture  # no indices
            pixels, tag = np.asarray(colours), picture.getexif().get(tag)  # raises for a broken one
    except UnidentifiedImageError:
        raise UserError('it is no TIFF, no .npy and no picture that Pillow reads') from None
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)  # has all 16 bits
    if image is not None:
        pixels = image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    return pixels, tag


def mean_and_std(images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of every channel [C], float64, over all pixels of images [H, W, C]."""
    count, total, squares = 0, 0.0, 0.0
    for image in images:
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        count, total = count + len(pixels), total + pixels.sum(axis=0)
        squares = squares + np.square(pixels).sum(axis=0)
    return (mean := total / count), np.sqrt(np.maximum(squares / count - mean**2, 0))
