"""Image files of any kind to BGR, uint8 [H, W, 3], whole or as a random crop; a broken file raises.

**Importing this module changes the reader of the whole process:** MMEngine's and mmpretrain's name
``LoadImageFromFile`` then stands for :class:`LoadAnyImage`, since training, tests, k-NN and the
libraries' inferencers, which look for that name, are to see the same pixels.

The crop takes less than half the time of mmpretrain's three transforms, which goes into Pillow's
conversions and a resize without vector instructions; torch's filter is the same one with them
(docs/data.md). H, W: a file's pixels; a box is (top, left, height, width).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import ceil
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS as MMPRETRAIN_TRANSFORMS
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mirl_mm.errors import UserError

from .channels import NUMPY, TIFF, decode_channels

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # height, width
ORIENTATION, ACROSS = ExifTags.Base.Orientation, (5, 6, 7, 8)  # of these, height becomes width
NAMES = ['LoadAnyImage', 'LoadImageFromFile']


@MMPRETRAIN_TRANSFORMS.register_module(NAMES, force=True)  # which has its own of the second name
@TRANSFORMS.register_module(NAMES, force=True)
class LoadAnyImage(LoadImageFromFile):
    """Read ``img_path`` to ``img`` with :func:`decode`; sets ``img_shape`` and ``ori_shape``.

    Takes the arguments of mmcv's transform, whose part it leaves to it where they ask for anything
    but colour by cv2 or Pillow. UserError in one line: a file that cannot be decoded, and one whose
    size is not the ``height`` and ``width`` that its annotations (COCO's) are for. With
    ``channels``, :func:`decode_channels` reads as many in its place.
    """

    def __init__(self, channels: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def transform(self, results: dict) -> dict | None:
        path, ours = results['img_path'], self.imdecode_backend in ('cv2', 'pillow')
        try:
            with named(path):
                ours &= self.color_type == 'color' and self.file_client_args is None
                if not ours and self.channels is None:
                    return super().transform(results)
                content = fileio.get(path, self.backend_args)
                image = decode_as(content, self.channels)
        except Exception:
            if self.ignore_empty:
                return None
            raise
        check_size(path, content, image.shape[:2], (results.get('height'), results.get('width')))
        image = image.astype(np.float32) if self.to_float32 else image
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(RandomResizedCrop):
    """LoadAnyImage, RandomResizedCrop (Pillow, bicubic) and RandomFlip as one transform.

    From the same state of ``numpy.random`` come the same box and the same flip. Pixels differ from
    Pillow's by 2 levels of 255 at most, and by less than 0.01 on average on photographs. Sets
    ``img`` (BGR, uint8; planes in memory, as PackInputs makes them), ``img_shape``, ``ori_shape``
    and, with a flip_prob, ``flip`` and ``flip_direction``. ``channels`` are as LoadAnyImage's.

    Args:
        scale: side of the output in pixels, or (height, width).
        crop_ratio_range, aspect_ratio_range, max_attempts, backend_args: as of the three.
        flip_prob: of a horizontal flip. 0 draws nothing.
        reducing_gap: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop is then still
            this many times larger than the output. On photographs that moves pixels by 1 level on
            average (40 at most, at the crop's edge) and takes about half the time for 12
            megapixels. ImageNet's images are mostly too small for it. None turns it off.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
        flip_prob: float = 0.0,
        reducing_gap: float | None = 3.0,
        backend_args: dict | None = None,
        channels: int | None = None,
    ) -> None:
        ranges = (crop_ratio_range, aspect_ratio_range, max_attempts)
        super().__init__(scale, *ranges, interpolation='bicubic', backend='pillow')
        if reducing_gap is not None and reducing_gap < 1:
            raise UserError(f'reducing_gap must be at least 1, or None; got {reducing_gap}')
        if not 0 <= flip_prob <= 1:
            raise UserError(f'flip_prob must be from 0 to 1, got {flip_prob}')
        self.flip_prob, self.reducing_gap = flip_prob, reducing_gap
        self.backend_args, self.channels = backend_args, channels

    def transform(self, results: dict) -> dict:
        with named(results['img_path']):
            content = fileio.get(results['img_path'], self.backend_args)
            pixels, results['ori_shape'] = self._cropped(content)
        if self.flip_prob:
            flip = np.random.random_sample() < self.flip_prob
            results.update(flip=flip, flip_direction='horizontal' if flip else None)
            pixels = pixels.flip(2) if flip else pixels
        image = pixels.contiguous().permute(1, 2, 0).numpy()
        results.update(img=image, img_shape=image.shape)
        return results

    def _cropped(self, content: bytes) -> tuple[Tensor, Size]:
        """The crop as BGR [3,h,w], and (H, W) of the whole."""
        if self.channels is not None or not (jpeg := jpeg_header(content)):
            image = decode_as(content, self.channels)
            box = self.rand_crop_params(image)
            return resized(cut(image, box), self.scale), image.shape[:2]
        stored, orientation = jpeg
        across = orientation in ACROSS
        shape, size = (each[::-1] if across else each for each in (stored, self.scale))
        box = self.rand_crop_params(SimpleNamespace(shape=shape))
        box = stored_box(box, stored, orientation)
        factor = self._reduction(box, size)
        if factor > 1:
            image = turned(reduced(opened(content), box, size, factor), orientation)
            return planes(image).flip(0), shape
        # Turned before the filter, which is not quite the same across as along.
        image = turned(cut(decode_rgb(content), box), orientation)
        return resized(image, self.scale).flip(0), shape

    def _reduction(self, box: Box, size: Size) -> int:
        """By how much the decoder may reduce: 1, 2, 4 or 8."""
        if self.reducing_gap is None:
            return 1
        spare = min(box[2] / size[0], box[3] / size[1]) / self.reducing_gap
        return next((factor for factor in (8, 4, 2) if spare >= factor), 1)

    def __repr__(self) -> str:
        ours = f'flip_prob={self.flip_prob}, reducing_gap={self.reducing_gap}'
        return f'{super().__repr__()[:-1]}, {ours})'


@contextmanager
def named(path: str) -> Iterator[None]:
    """What goes wrong with a file is a UserError of one line that names it, unless it does so."""
    try:
        yield
    except ImportError:
        raise  # no decoder: not the file's fault
    except Exception as error:  # decoders raise whatever they like
        if str(path) in str(error):
            raise
        what = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'cannot read the image {path}: {what}') from error


def check_size(path: str, content: bytes, size: Size, annotated: tuple) -> None:
    """UserError for a picture of another (H, W) than it was annotated in; None is any."""
    if None in annotated or annotated == size:
        return
    ours, theirs = (f'{width} x {height}' for height, width in (size, annotated))
    said = f'{path} has {ours} pixels (width x height), its annotations are for {theirs}'
    if annotated == size[::-1] and opened(content).getexif().get(ORIENTATION) in ACROSS:
        said += ': its EXIF tag turns it, and what is annotated must be the turned picture'
    raise UserError(said)


def decode(content: bytes) -> np.ndarray:
    """An image file's bytes as uint8 [H, W, 3], turned as its EXIF tag says; of many, the first.

    Grey, palette and CMYK images become BGR, and how transparent a pixel is plays no part; of 16
    bits the upper 8 are kept. Whatever Pillow raises is raised (truncated, not an image, too large
    to be one), and a UserError for pixels without a defined range (floating point, 32 bit).
    """
    if jpeg := jpeg_header(content):  # in little more than half of Pillow's time
        return turned(mmcv.rgb2bgr(decode_rgb(content)), jpeg[1])
    image = opened(content)
    image.info.pop('transparency', None)  # of which Pillow would warn
    tags = getattr(image, 'tag_v2', {})  # of a TIFF
    if image.mode == 'F' or (image.mode == 'I' and image.format not in ('PPM', 'PNG')):
        what = 'floating point' if image.mode == 'F' else '32 bit or signed'
        said = f'pixels of mode {image.mode!r} ({what}) have no defined range'
        raise UserError(f'{said}; accepted are 8 and 16 bit without a sign')
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == 'I' or image.mode.startswith('I;16'):  # Pillow's conversion ends at 255
        bits = 12 if tags.get(258) == (12,) else 16
        grey = (np.asarray(image) >> bits - 8).astype(np.uint8)
        grey = 255 - grey if tags.get(262) == 0 else grey  # WhiteIsZero, as Pillow does with 8 bits
        return np.repeat(grey[..., None], 3, axis=2)
    image = image.convert('L') if image.mode == 'LA' else image
    return mmcv.rgb2bgr(np.asarray(image.convert('RGB')))


def decode_as(content: bytes, channels: int | None) -> np.ndarray:
    """BGR as :func:`decode` gives it, or so many channels as :func:`decode_channels` does."""
    return decode(content) if channels is None else decode_channels(content, channels)


def opened(content: bytes) -> Image.Image:
    """The image, of which only the header is read yet; Pillow's own error would name a buffer."""
    if not content:
        raise UnidentifiedImageError('the file is empty')
    try:
        return Image.open(BytesIO(content))
    except UnidentifiedImageError:
        more = ' as RGB; channels=N of the loader reads TIFF and .npy of N channels'
        more = more if content.startswith((*TIFF, NUMPY)) else ''
        raise UnidentifiedImageError(f'no image in a format that Pillow reads{more}') from None


def jpeg_header(content: bytes) -> tuple[Size, int | None] | None:
    """(H, W) as stored, and the EXIF orientation, of a grey or colour JPEG; None for all else."""
    picture = opened(content)
    if picture.format not in ('JPEG', 'MPO') or picture.mode not in ('RGB', 'L'):
        return None
    return picture.size[::-1], picture.getexif().get(ORIENTATION)


def decode_rgb(content: bytes) -> np.ndarray:
    """A JPEG's pixels [H,W,3] as they are stored; Pillow's error for a truncated file."""
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        return decode_jpeg(pixels, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except RuntimeError:
        return np.asarray(opened(content).convert('RGB'))


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def planes(image: np.ndarray) -> Tensor:
    """[H,W,C] as [C,H,W], pixels side by side in memory, as torch's vectorised filter wants."""
    return torch.from_numpy(np.array(image, order='C')).permute(2, 0, 1)


def resized(image: np.ndarray, size: Size) -> Tensor:
    """Pixels [H,W,C] as [C,*size], bicubic with antialiasing."""
    return F.interpolate(planes(image)[None], size, mode='bicubic', antialias=True)[0]


def reduced(picture: Image.Image, box: Box, size: Size, factor: int) -> np.ndarray:
    """RGB [*size,3] of a box in a JPEG that is decoded at 1/factor of its size."""
    picture.draft('RGB', (picture.width // factor, picture.height // factor))
    top, left, height, width = (length / factor for length in box)
    # Cut first: the filter must not reach beyond the box.
    x, y = int(left), int(top)
    crop = picture.convert('RGB').crop((x, y, ceil(left + width), ceil(top + height)))
    window = (left - x, top - y, left - x + width, top - y + height)
    return np.asarray(crop.resize(size[::-1], Image.Resampling.BICUBIC, box=window))


def stored_box(box: Box, stored: Size, orientation: int | None) -> Box:
    """Where the box of the turned picture lies in the stored one of (H, W) pixels."""
    top, left, height, width = box
    if orientation in ACROSS:
        top, left, height, width = left, top, width, height
    if orientation in (2, 3, 7, 8):
        left = stored[1] - left - width
    if orientation in (3, 4, 6, 7):
        top = stored[0] - top - height
    return top, left, height, width


def turned(image: np.ndarray, orientation: int | None) -> np.ndarray:
    """The stored picture [H,W,3] as it is to be seen."""
    image = cv2.flip(image, 0) if orientation in (3, 4, 6, 7) else image
    image = cv2.flip(image, 1) if orientation in (2, 3, 7, 8) else image
    return cv2.transpose(image) if orientation in ACROSS else image
