import io

import numpy as np
import pytest
from PIL import Image

from mirl_mm.datasets import LoadAnyImage
from mirl_mm.datasets.decode import decode


def encode(image: Image.Image, fmt: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **kwargs)
    return buffer.getvalue()


def noise(seed: int, size: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_rgb_becomes_bgr():
    assert (
        decode(encode(Image.new('RGB', (2, 3), (10, 20, 30)), 'PNG')).tolist()
        == [[[30, 20, 10]] * 2] * 3
    )


@pytest.mark.parametrize(
    ('image', 'fmt', 'bgr'),
    [
        (Image.new('L', (4, 4), 77), 'PNG', [77, 77, 77]),
        (Image.new('1', (4, 4), 1), 'PNG', [255, 255, 255]),
        (Image.new('LA', (4, 4), (77, 255)), 'PNG', [77, 77, 77]),
        (Image.new('RGBA', (4, 4), (10, 20, 30, 128)), 'PNG', [30, 20, 10]),
        (Image.new('RGB', (4, 4), (10, 20, 30)).quantize(), 'PNG', [30, 20, 10]),
        (Image.new('CMYK', (8, 8), (255, 0, 255, 0)), 'TIFF', [0, 255, 0]),
        (Image.fromarray(np.full((4, 4), 0x4D12, np.uint16)), 'PNG', [0x4D] * 3),
        (Image.fromarray(np.full((4, 4), 0x4D12, np.uint16)), 'TIFF', [0x4D] * 3),
        (Image.fromarray(np.full((4, 4), 0x4D12, np.int32)), 'TIFF', [0x4D] * 3),
    ],
)
def test_every_mode_becomes_three_channels(image, fmt, bgr):
    got = decode(encode(image, fmt))
    assert got.dtype == np.uint8 and got.shape == (*image.size, 3)
    assert (got == bgr).all()


def test_cmyk_jpeg():
    got = decode(encode(Image.new('CMYK', (16, 16), (255, 0, 255, 0)), 'JPEG', quality=95))
    assert np.abs(got.astype(int) - [0, 255, 0]).max() <= 5


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decode(encode(Image.new('RGB', (4, 2)), 'JPEG', exif=exif)).shape == (4, 2, 3)


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'BMP', 'PPM', 'TIFF', 'WEBP'])
def test_truncated_files_raise(fmt):
    whole = encode(noise(0, 64), fmt)
    assert decode(whole).shape == (64, 64, 3)
    with pytest.raises(Exception):  # noqa: B017 - each decoder has its own
        decode(whole[: len(whole) // 2])


def test_what_is_no_image_raises(monkeypatch):
    for content in (b'', b'<html>not found</html>'):
        with pytest.raises(OSError):
            decode(content)
    with pytest.raises(ValueError, match="mode 'F'"):
        decode(encode(Image.fromarray(np.ones((4, 4), np.float32)), 'TIFF'))
    with pytest.raises(ValueError, match='accepted are 8 and 16 bit'):
        decode(encode(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), 'TIFF'))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with pytest.raises(Image.DecompressionBombError):
        decode(encode(noise(0), 'PNG'))


def test_transform_sets_the_shapes(tmp_path):
    Image.new('RGB', (8, 4), (3, 3, 3)).save(tmp_path / '3.png')
    results = LoadAnyImage()(dict(img_path=str(tmp_path / '3.png')))
    assert results['img_shape'] == results['ori_shape'] == (4, 8)
    assert (results['img'] == 3).all()
