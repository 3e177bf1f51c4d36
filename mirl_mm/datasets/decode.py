"""Image files of any kind to BGR, uint8 [H, W, 3]; a broken file raises."""

from io import BytesIO

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps, UnidentifiedImageError

from mirl_mm.errors import UserError


@TRANSFORMS.register_module()
class LoadAnyImage(BaseTransform):
    """Read ``img_path`` to ``img`` with :func:`decode`; sets ``img_shape`` and ``ori_shape``.

    Args:
        backend_args: mmengine's file backend; None infers it from the path.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        image = decode(fileio.get(results['img_path'], self.backend_args))
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def decode(content: bytes) -> np.ndarray:
    """An image file's bytes as uint8 [H, W, 3], turned as its EXIF tag says.

    Grey, palette, CMYK and alpha images become BGR; of 16 bits the upper 8 are kept.

    Raises:
        Exception: Whatever Pillow raises: truncated, not an image, too large to be one.
        ValueError: Pixels without a defined range (floating point, 32 bit).
    """
    image = opened(content)
    if image.mode not in ('I', 'F') and not image.mode.startswith('I;16'):
        return mmcv.imfrombytes(content, backend='pillow')
    pixels = np.asarray(ImageOps.exif_transpose(image))  # Pillow's own conversion saturates at 255
    if image.mode == 'F' or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise UserError(
            f'pixels of mode {image.mode!r} from {pixels.min()} to {pixels.max()}; '
            'accepted are 8 and 16 bit'
        )
    return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)


def opened(content: bytes) -> Image.Image:
    """The image, of which only the header is read yet; Pillow's own error would name a buffer."""
    try:
        return Image.open(BytesIO(content))
    except UnidentifiedImageError:
        raise UnidentifiedImageError('no image in a format that Pillow reads') from None
