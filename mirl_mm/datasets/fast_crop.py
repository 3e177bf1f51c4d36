"""Read a file, cut a random crop out of it and flip it, in less than half the time.

Boxes and flips are those of mmpretrain's RandomResizedCrop and mmcv's RandomFlip, draw for draw.
What they spend goes less into decoding than into Pillow's conversions and a resize without vector
instructions; torch has the same antialiased bicubic filter with them. Measured in docs/data.md.

Shapes: H, W a file's pixels; a box is (top, left, height, width).
"""

from math import ceil
from types import SimpleNamespace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import RandomResizedCrop
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mirl_mm.errors import UserError

from .decode import decode, opened

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # height, width
Turn = tuple[bool, bool, bool]

EXIF_ORIENTATION = 0x0112
# orientation -> the stored picture is flipped (left-right, up-down), then transposed
TURNS = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(RandomResizedCrop):
    """LoadAnyImage, RandomResizedCrop (Pillow, bicubic) and RandomFlip as one transform.

    From the same state of ``numpy.random`` come the same box and the same flip. Pixels differ from
    Pillow's by 2 levels of 255 at most, and by less than 0.01 on average on photographs. A broken
    file raises, as in LoadAnyImage. Sets ``img`` (BGR, uint8; planes in memory, as PackInputs makes
    them), ``img_shape``, ``ori_shape`` and, with a flip_prob, ``flip`` and ``flip_direction``.

    Args:
        scale: Side of the output in pixels, or (height, width).
        crop_ratio_range: Area of the crop as a share of the image's.
        aspect_ratio_range: Width over height of the crop.
        max_attempts: Draws before the centre is taken.
        flip_prob: Of a horizontal flip. 0 draws nothing.
        reducing_gap: A JPEG's crop that is 2, 4 or 8 times this many times larger than the output
            is decoded at 1/2, 1/4 or 1/8 of its size; what the filter then reads is still this many
            times larger than the output. On photographs that moves pixels by 1 level on average (40
            at most, at the crop's edge) and takes about half the time for 12 megapixels. ImageNet's
            images are mostly too small for it. None turns it off.
        backend_args: MMEngine's file backend; None infers it from the path.

    Raises:
        ValueError: reducing_gap is below 1, or flip_prob is no probability.
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
    ) -> None:
        super().__init__(
            scale,
            crop_ratio_range,
            aspect_ratio_range,
            max_attempts,
            interpolation='bicubic',
            backend='pillow',
        )
        if reducing_gap is not None and reducing_gap < 1:
            raise UserError(f'reducing_gap must be at least 1, or None; got {reducing_gap}')
        if not 0 <= flip_prob <= 1:
            raise UserError(f'flip_prob must be from 0 to 1, got {flip_prob}')
        self.flip_prob = flip_prob
        self.reducing_gap = reducing_gap
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        content = fileio.get(results['img_path'], self.backend_args)
        stored, turn = jpeg_size(content), TURNS[1]
        if stored is None:
            picture = opened(content)
            if picture.format in ('JPEG', 'MPO') and picture.mode in ('RGB', 'L'):
                turn = TURNS.get(picture.getexif().get(EXIF_ORIENTATION), turn)
                stored = picture.size[::-1]
        pixels, shape = self._jpeg(content, stored, turn) if stored else self._other(content)
        results.update(ori_shape=shape)
        if self.flip_prob:
            flip = np.random.random_sample() < self.flip_prob
            results.update(flip=flip, flip_direction='horizontal' if flip else None)
            pixels = pixels.flip(2) if flip else pixels
        # planes in memory, which is what PackInputs makes of any image
        image = pixels.contiguous().permute(1, 2, 0).numpy()
        results.update(img=image, img_shape=image.shape)
        return results

    def _jpeg(self, content: bytes, stored: Size, turn: Turn) -> tuple[Tensor, Size]:
        shape = stored[::-1] if turn[2] else stored
        box = stored_box(self._draw(shape), stored, turn)
        size = self.scale[::-1] if turn[2] else self.scale
        factor = self._reduction(box, size)
        if factor > 1:
            image = reduced(opened(content), box, size, factor)
            return planes(to_bgr(turned(image, turn))), shape
        # Turned before the filter, which is not quite the same across as along.
        crop = turned(cut(decode_rgb(content), box), turn)
        return resized(to_bgr(crop), self.scale), shape

    def _other(self, content: bytes) -> tuple[Tensor, Size]:
        image = decode(content)
        shape = image.shape[:2]
        return resized(cut(image, self._draw(shape)), self.scale), shape

    def _draw(self, shape: Size) -> Box:
        return self.rand_crop_params(SimpleNamespace(shape=shape))

    def _reduction(self, box: Box, size: Size) -> int:
        """By how much the decoder may reduce: 1, 2, 4 or 8."""
        if self.reducing_gap is None:
            return 1
        spare = min(box[2] / size[0], box[3] / size[1]) / self.reducing_gap
        return next((factor for factor in (8, 4, 2) if spare >= factor), 1)

    def __repr__(self) -> str:
        return (
            f'{super().__repr__()[:-1]}, flip_prob={self.flip_prob}, '
            f'reducing_gap={self.reducing_gap})'
        )


def jpeg_size(content: bytes) -> Size | None:
    """(H, W) of an ordinary JPEG: grey or colour, and no EXIF data that could turn it.

    None for all else, which Pillow then looks at more closely, and more slowly.
    """
    if not content.startswith(b'\xff\xd8'):
        return None
    at = 2
    while len(content) >= at + 10 and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], 'big')
        if marker in (0xC0, 0xC1, 0xC2):  # a frame: baseline, extended, progressive
            height = int.from_bytes(content[at + 5 : at + 7], 'big')
            width = int.from_bytes(content[at + 7 : at + 9], 'big')
            plain = content[at + 9] in (1, 3) and 0 < height * width < Image.MAX_IMAGE_PIXELS
            return (height, width) if plain else None
        if marker in (0xE1, 0xDA, 0xD9):  # EXIF or XMP; pixels without a frame before them; the end
            return None
        at += 2 + length
    return None


def decode_rgb(content: bytes) -> np.ndarray:
    """A JPEG's pixels [H,W,3] as they are stored; RuntimeError for a truncated file."""
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(pixels, ImageReadMode.RGB).permute(1, 2, 0).numpy()


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def to_bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def planes(image: np.ndarray) -> Tensor:
    """[H,W,3] as [3,H,W], contiguous only if it is asked for."""
    return torch.from_numpy(image).permute(2, 0, 1)


def resized(image: np.ndarray, size: Size) -> Tensor:
    """Uint8 pixels [H,W,3] as [3,*size], bicubic with antialiasing."""
    # torch's vectorised filter wants the pixels side by side
    batch = planes(np.ascontiguousarray(image))[None]
    return F.interpolate(batch, size, mode='bicubic', antialias=True)[0]


def reduced(picture: Image.Image, box: Box, size: Size, factor: int) -> np.ndarray:
    """RGB [*size,3] of a box in a JPEG that is decoded at 1/factor of its size."""
    picture.draft('RGB', (picture.width // factor, picture.height // factor))
    top, left, height, width = (length / factor for length in box)
    # Cut first: the filter must not reach beyond the box.
    x, y = int(left), int(top)
    crop = picture.convert('RGB').crop((x, y, ceil(left + width), ceil(top + height)))
    window = (left - x, top - y, left - x + width, top - y + height)
    return np.asarray(crop.resize(size[::-1], Image.Resampling.BICUBIC, box=window))


def stored_box(box: Box, stored: Size, turn: Turn) -> Box:
    """Where the box of the turned picture lies in the stored one of (H, W) pixels."""
    top, left, height, width = box
    if turn[2]:
        top, left, height, width = left, top, width, height
    if turn[0]:
        left = stored[1] - left - width
    if turn[1]:
        top = stored[0] - top - height
    return top, left, height, width


def turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    """The stored picture [H,W,3] as it is to be seen."""
    if not any(turn):
        return image
    left_right, up_down, transpose = turn
    image = image[:: -1 if up_down else 1, :: -1 if left_right else 1]
    return np.ascontiguousarray(image.transpose(1, 0, 2) if transpose else image)
