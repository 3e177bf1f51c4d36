import io
import re

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import DataLoader

from mirl_mm.datasets import LoadAnyImage
from mirl_mm.datasets.decode import decode
from mirl_mm.errors import UserError, reason_of


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
        decode(encode(Image.fromarray(np.full((4, 4), 0x4D12, np.int32)), 'TIFF'))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with pytest.raises(Image.DecompressionBombError):
        decode(encode(noise(0), 'PNG'))


def test_transform_sets_the_shapes(tmp_path):
    Image.new('RGB', (8, 4), (3, 3, 3)).save(tmp_path / '3.png')
    results = LoadAnyImage()(dict(img_path=str(tmp_path / '3.png')))
    assert results['img_shape'] == results['ori_shape'] == (4, 8)
    assert (results['img'] == 3).all()


@pytest.fixture
def photograph(tmp_path):
    """Writes 6 x 4 pixels (width x height) as a JPEG with an EXIF orientation; its path."""

    def write(orientation: int, fmt: str = 'JPEG') -> str:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = str(tmp_path / f'a.{fmt}')
        Image.new('RGB', (6, 4)).save(path, fmt, exif=exif)
        return path

    return write


TURNED = ': its EXIF tag turns it, and what is annotated must be the turned picture'


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize(
    ('orientation', 'annotated', 'message'),
    [
        (1, dict(height=4, width=6), None),
        (3, dict(height=4, width=6), None),
        (6, dict(height=6, width=4), None),
        (6, dict(height=6), None),
        (6, dict(height=4, width=6), f'4 x 6 pixels (width x height), {{}} 6 x 4{TURNED}'),
        (8, dict(height=4, width=6), f'4 x 6 pixels (width x height), {{}} 6 x 4{TURNED}'),
        (1, dict(height=6, width=4), '6 x 4 pixels (width x height), {} 4 x 6'),
        (3, dict(height=6, width=4), '6 x 4 pixels (width x height), {} 4 x 6'),
        (6, dict(height=40, width=60), '4 x 6 pixels (width x height), {} 60 x 40'),
        (1, dict(height=8, width=12), '6 x 4 pixels (width x height), {} 12 x 8'),
    ],
)
def test_annotations_of_another_size_are_refused(photograph, fmt, orientation, annotated, message):
    path = photograph(orientation, fmt)
    results = dict(img_path=path, **annotated)
    if message is None:
        assert LoadAnyImage()(results)['img'].shape[:2] == ((4, 6) if orientation < 5 else (6, 4))
        return
    said = f'{path} has {message.format("its annotations are for")}'
    with pytest.raises(UserError, match=f'^{re.escape(said)}$'):
        LoadAnyImage()(results)


def test_what_mmcvs_reader_takes_is_taken(photograph, tmp_path):
    path = photograph(6)
    assert LoadAnyImage(to_float32=True)(dict(img_path=path))['img'].dtype == np.float32
    as_stored = LoadAnyImage(color_type='color_ignore_orientation')(dict(img_path=path))
    assert as_stored['img'].shape == as_stored['ori_shape'] + (3,) == (4, 6, 3)
    assert LoadAnyImage(color_type='grayscale')(dict(img_path=path))['img'].shape == (6, 4)
    assert LoadAnyImage(backend_args=dict(backend='local'))(dict(img_path=path))['img'].ndim == 3
    (tmp_path / 'b.jpg').write_bytes(b'')
    for kind in ('color', 'unchanged'):
        broken = dict(img_path=str(tmp_path / 'b.jpg'))
        assert LoadAnyImage(color_type=kind, ignore_empty=True)(broken) is None
        with pytest.raises(UserError, match=rf'cannot read the image {tmp_path}/b\.jpg: '):
            LoadAnyImage(color_type=kind)(broken)


def test_a_missing_file_and_a_missing_decoder_are_what_they_are(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/none\.png'"):
        LoadAnyImage()(dict(img_path=str(tmp_path / 'none.png')))

    def no_decoder(content):
        raise ImportError('no such library')

    monkeypatch.setattr('mirl_mm.datasets.decode.decode', no_decoder)
    Image.new('RGB', (8, 4)).save(tmp_path / '0.png')
    with pytest.raises(ImportError, match='no such library'):
        LoadAnyImage()(dict(img_path=str(tmp_path / '0.png')))


@pytest.mark.parametrize('workers', [0, 1])
def test_the_line_of_a_loader(tmp_path, workers):
    """As tools print it, from a worker too."""
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat' / '0.jpg').write_bytes(encode(noise(0, 64), 'JPEG')[:-900])
    pipeline = [dict(type='LoadImageFromFile', imdecode_backend='pillow')]
    loader = DataLoader(CustomDataset(str(tmp_path), pipeline=pipeline), num_workers=workers)
    with pytest.raises(UserError) as caught:
        next(iter(loader))
    said = f'cannot read the image {tmp_path}/cat/0.jpg: image file is truncated '
    assert re.fullmatch(re.escape(said) + r'\(\d+ bytes not processed\)', reason_of(caught.value))
