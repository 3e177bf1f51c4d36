"""Every kind of picture has the same, right pixels wherever it is read."""

import io
import struct
import warnings
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image, ImageOps, features

from mirl_mm.datasets import LoadAnyImage, LoadRandomResizedCrop
from mirl_mm.datasets.decode import decode
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError
from mirl_mm.measure.features import test_pipeline_of as pipeline_of

CONFIGS = Path(__file__).parents[2] / 'configs'
READ_BY = [  # configs of each task, of each way to load
    'mirl/vit-b48_800e.py',
    'mirl/vit-test_2e.py',
    'mae/vit-test_2e.py',
    'finetune/vit-b48_60e_in1k.py',
    'finetune/vit-test_2e_classes.py',
    'linear/vit-b48_90e_in1k.py',
]
DENSE = [  # a light environment (CONTRIBUTING.md) reads nothing by them
    'mask-rcnn/vit-b48_lsj-100e_coco.py',
    'mask-rcnn/vit-b12_1x_coco.py',
    'mask-rcnn/vit-test_20it_scenes.py',
    'upernet/vit-b48_160k_ade20k-512.py',
    'upernet/vit-test_20it_scenes.py',
]
READ_BY += DENSE if find_spec('mmdet') else []
RNG = np.random.default_rng(0)
BLOCKS = np.ones((4, 4), int)
RGB = np.kron(RNG.integers(0, 256, (6, 8, 3)), BLOCKS[..., None]).astype(np.uint8)  # [24, 32, 3]
GREY = np.array(Image.fromarray(RGB).convert('L'))
DEEP = np.kron(RNG.integers(0, 1 << 16, (6, 8)), BLOCKS).astype(np.uint16)
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], -1)
ALPHA = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
PICTURE = Image.fromarray(RGB)
PALETTE = PICTURE.quantize(16)
OTHER = PICTURE.rotate(180)  # a second frame
ENDS = ['JPEG', 'PNG', 'WEBP', 'TIFF'] + ['AVIF'] * features.check('avif')


def saved(image, fmt: str, **settings) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, fmt, **settings)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(pixels: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG that Pillow cannot write: of 16 bits with colour or alpha, or a transparent value."""
    bits = 8 * pixels.itemsize
    rows = b''.join(b'\0' + row.astype(f'>u{pixels.itemsize}').tobytes() for row in pixels)
    header = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], bits, colour, 0, 0, 0)
    parts = [chunk(b'IHDR', header), *chunks, chunk(b'IDAT', zlib.compress(rows))]
    return b'\x89PNG\r\n\x1a\n' + b''.join([*parts, chunk(b'IEND', b'')])


def tiff(data: bytes, bits: int, kind: int = 1, white: int = 1, channels: int = 1) -> bytes:
    """A TIFF of 24 x 32 that Pillow cannot write; kind 1 is unsigned, 2 signed, 3 floating."""
    entries = [(256, 32), (257, 24), (258, bits), (259, 1), (262, 2 if channels == 3 else white)]
    entries += [(273, 8), (277, channels), (278, 24), (279, len(data)), (339, kind)]
    start = 8 + len(data)
    behind, values, rows = start + 2 + 12 * len(entries) + 4, b'', b''
    for tag, value in entries:
        if channels == 3 and tag in (258, 339):
            rows += struct.pack('<HHII', tag, 3, 3, behind + len(values))
            values += struct.pack('<HHH', *[value] * 3)
        else:
            rows += struct.pack('<HHII', tag, 4, 1, value)
    table = struct.pack('<H', len(entries)) + rows + bytes(4)
    return b'II' + struct.pack('<HI', 42, start) + data + table + values


def twelve_bits(values: np.ndarray) -> bytes:
    """Two values in three bytes."""
    a, b = values.ravel()[0::2], values.ravel()[1::2]
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()


def turned(orientation: int, image: Image.Image, fmt: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    best = dict(quality=100, subsampling=0)
    settings = dict(
        WEBP=dict(lossless=True), JPEG=best, AVIF=dict(quality=100, subsampling='4:4:4')
    )
    return saved(image, fmt, exif=exif, **settings.get(fmt, {}))


def seen(orientation: int, pixels: np.ndarray) -> np.ndarray:
    """What a picture with this tag is to look like, by Pillow."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def alpha(*channels: np.ndarray) -> Image.Image:
    mode = {2: 'LA', 4: 'RGBA'}[len(channels)]
    return Image.merge(mode, [Image.fromarray(channel) for channel in channels])


R, G, B = RGB.transpose(2, 0, 1).copy()
RGBA, LA = alpha(R, G, B, ALPHA), alpha(GREY, ALPHA)
FRAMES = dict(save_all=True, append_images=[OTHER])
IN_PALETTE = np.array(PALETTE.convert('RGB'))
BLACK = np.array(PICTURE.convert('1').convert('L'))
KINDS = {  # name: the file, and what is in it: RGB or grey
    'grey.png': (saved(GREY, 'PNG'), GREY),
    'grey.tif': (saved(GREY, 'TIFF'), GREY),
    'grey-white-is-0.tif': (tiff((255 - GREY).tobytes(), 8, white=0), GREY),
    'bits.png': (saved(PICTURE.convert('1'), 'PNG'), BLACK),
    'bits.tif': (saved(PICTURE.convert('1'), 'TIFF', compression='group4'), BLACK),
    'grey16.png': (saved(DEEP, 'PNG'), DEEP >> 8),
    'grey16.tif': (saved(DEEP, 'TIFF'), DEEP >> 8),
    'grey16-lzw.tif': (saved(DEEP, 'TIFF', compression='tiff_lzw'), DEEP >> 8),
    'grey16-big-endian.tif': (saved(DEEP.astype('>u2'), 'TIFF'), DEEP >> 8),
    'grey16-white-is-0.tif': (tiff((0xFFFF - DEEP).tobytes(), 16, white=0), DEEP >> 8),
    'grey16.pgm': (b'P5 32 24 65535\n' + DEEP.astype('>u2').tobytes(), DEEP >> 8),
    'grey12.pgm': (b'P5 32 24 4095\n' + (DEEP >> 4).astype('>u2').tobytes(), DEEP >> 8),
    'grey12.tif': (tiff(twelve_bits(DEEP >> 4), 12), DEEP >> 8),
    'grey16-transparent.png': (png(DEEP, 0, chunk(b'tRNS', b'\0\7')), DEEP >> 8),
    'rgb16.png': (png(DEEP_RGB, 2), DEEP_RGB >> 8),
    'rgb16-transparent.png': (png(DEEP_RGB, 2, chunk(b'tRNS', b'\0\7' * 3)), DEEP_RGB >> 8),
    'rgb16.tif': (tiff(DEEP_RGB.tobytes(), 16, channels=3), DEEP_RGB >> 8),
    'grey16-alpha.png': (png(np.stack([DEEP, DEEP], -1), 4), DEEP >> 8),
    'rgba16.png': (png(np.dstack([DEEP_RGB, DEEP]), 6), DEEP_RGB >> 8),
    'palette.png': (saved(PALETTE, 'PNG'), IN_PALETTE),
    'palette.bmp': (saved(PALETTE, 'BMP'), IN_PALETTE),
    'palette.tif': (saved(PALETTE, 'TIFF'), IN_PALETTE),
    'palette-one-transparent.png': (saved(PALETTE, 'PNG', transparency=0), IN_PALETTE),
    'palette-alphas.png': (saved(PALETTE, 'PNG', transparency=bytes(range(16))), IN_PALETTE),
    'grey-transparent.png': (png(GREY, 0, chunk(b'tRNS', b'\0\7')), GREY),
    'rgb-transparent.png': (png(RGB, 2, chunk(b'tRNS', b'\0\7' * 3)), RGB),
    'rgba.png': (saved(RGBA, 'PNG'), RGB),
    'rgba.tif': (saved(RGBA, 'TIFF'), RGB),
    'rgba.webp': (saved(RGBA, 'WEBP', lossless=True, exact=True), RGB),
    'grey-alpha.png': (saved(LA, 'PNG'), GREY),
    'grey-alpha.tif': (saved(LA, 'TIFF'), GREY),
    'cmyk.tif': (saved(PICTURE.convert('CMYK'), 'TIFF'), RGB),
    'cmyk.jpg': (saved(PICTURE.convert('CMYK'), 'JPEG', quality=100, subsampling=0), RGB),
    'lab.tif': (saved(Image.frombytes('LAB', (32, 24), RGB.tobytes()), 'TIFF'), None),
    'ycbcr.tif': (saved(PICTURE, 'TIFF', compression='jpeg', quality=100), None),
    'frames.gif': (saved(PICTURE, 'GIF', **FRAMES), RGB),
    'frames.tif': (saved(PICTURE, 'TIFF', **FRAMES), RGB),
    'frames.png': (saved(PICTURE, 'PNG', **FRAMES), RGB),
    'frames.webp': (saved(PICTURE, 'WEBP', lossless=True, **FRAMES), RGB),
    'frames.mpo': (saved(PICTURE, 'MPO', quality=100, subsampling=0, **FRAMES), RGB),
    'transparent.gif': (saved(RGBA, 'GIF'), None),
    'plain.jfif': (saved(PICTURE, 'JPEG', quality=100, subsampling=0), RGB),
    'progressive.jpg': (saved(PICTURE, 'JPEG', progressive=True), None),
    'rgb-inside.jpg': (saved(PICTURE, 'JPEG', quality=100, keep_rgb=True), RGB),
    'grey.jpg': (saved(GREY, 'JPEG', quality=100), GREY),
    'plain.webp': (saved(PICTURE, 'WEBP', lossless=True), RGB),
    'plain.ppm': (saved(PICTURE, 'PPM'), RGB),
    **{
        f'turned-{way}.{fmt}': (turned(way, PICTURE, fmt), seen(way, RGB))
        for fmt in ENDS
        for way in range(1, 9)
    },
    'turned16.png': (turned(6, Image.fromarray(DEEP), 'PNG'), seen(6, DEEP >> 8)),
    'turned16.tif': (turned(6, Image.fromarray(DEEP), 'TIFF'), seen(6, DEEP >> 8)),
    'turned16-big-endian.tif': (
        turned(6, Image.fromarray(DEEP.astype('>u2')), 'TIFF'),
        seen(6, DEEP >> 8),
    ),
    'turned-palette.png': (turned(6, PALETTE, 'PNG'), seen(6, IN_PALETTE)),
}
RANGE = "pixels of mode '{}' ({}) have no defined range; accepted are 8 and 16 bit without a sign"
REFUSED = {  # name: the file, and what is said
    'float.tif': (saved(PICTURE.convert('F'), 'TIFF'), RANGE.format('F', 'floating point')),
    'float.pfm': (saved(PICTURE.convert('F'), 'PPM'), RANGE.format('F', 'floating point')),
    'int32.tif': (saved(DEEP.astype(np.int32), 'TIFF'), RANGE.format('I', '32 bit or signed')),
    'uint32.tif': (tiff(DEEP.astype('<u4').tobytes(), 32), RANGE.format('I', '32 bit or signed')),
    'int16.tif': (tiff((DEEP >> 1).tobytes(), 16, kind=2), RANGE.format('I', '32 bit or signed')),
    'double.tif': (tiff(DEEP.astype('<f8').tobytes(), 64, kind=3), 'no image in a format'),
    'half.tif': (tiff(DEEP.astype('<f2').tobytes(), 16, kind=3), 'no image in a format'),
    'float-rgb.tif': (
        tiff(DEEP_RGB.astype('<f4').tobytes(), 32, kind=3, channels=3),
        'no image in a format',
    ),
    'empty.jpg': (b'', 'the file is empty'),
    'page.jpg': (b'<html>not found</html>', 'no image in a format that Pillow reads'),
    'header.png': (saved(PICTURE, 'PNG')[:20], 'Truncated File Read'),
    **{
        f'half.{fmt}': (saved(image, fmt)[: len(saved(image, fmt)) // 2], '')
        for fmt in ('JPEG', 'PNG', 'BMP', 'PPM', 'TIFF', 'WEBP', 'GIF')
        for image in [RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)]
    },
    'nearly-whole.jpg': (saved(PICTURE, 'JPEG')[:-60], 'image file is truncated'),
    'without-its-end.jpg': (saved(PICTURE, 'JPEG')[:-2], 'image file is truncated'),
}


@cache
def readers() -> dict:
    """Of each config: the reader in training, in tests, of features and of its library."""
    found = {}
    for name in READ_BY:
        cfg = load_config(str(CONFIGS / name))
        scope = cfg.default_scope
        steps = dict(features=pipeline_of(cfg, 224)[0])
        for use in ('train', 'val', 'test'):
            if loader := cfg.get(f'{use}_dataloader'):
                steps[use] = loader.dataset.pipeline[0]
        with DefaultScope.overwrite_default_scope(scope):
            if scope != 'mmpretrain':
                __import__(f'{scope}.datasets')
                steps['inferencer'] = dict(steps['test'], type=f'{scope}.InferencerLoader')
            for use, step in steps.items():
                found[f'{name} {use}'] = TRANSFORMS.build(dict(step))
    return found


def read(transform, path: str) -> np.ndarray:
    """What a transform reads; of a random crop, the whole picture in its own size."""
    if isinstance(transform, LoadRandomResizedCrop):
        whole = LoadRandomResizedCrop(transform.scale)
        whole.rand_crop_params = lambda image: (0, 0, *image.shape[:2])
        whole.scale = LoadAnyImage()(dict(img_path=path))['ori_shape']
        transform = whole
    return transform(dict(img_path=path))['img']


@pytest.mark.parametrize('name', KINDS)
def test_the_same_and_the_right_pixels_everywhere(name, tmp_path):
    content, expected = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pixels = decode(content)  # as tools/predict.py reads
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    if expected is not None:
        expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
        moved = np.abs(pixels[..., ::-1] - expected.astype(int))
        lossy = dict(JPEG=4, MPO=4, AVIF=25).get(Image.open(path).format, 0)
        assert moved.shape == pixels.shape and moved.max() <= lossy
    for reader, transform in readers().items():
        assert np.array_equal(read(transform, str(path)), pixels), reader


@pytest.mark.parametrize('name', REFUSED)
def test_the_same_refusal_everywhere(name, tmp_path):
    content, said = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    messages = set()
    for transform in readers().values():
        with pytest.raises(UserError) as caught:
            transform(dict(img_path=str(path)))
        messages.add(str(caught.value))
    (message,) = messages
    assert message.startswith(f'cannot read the image {path}: {said}')
    assert (
        '\n' not in message and message.count(str(path)) == 1 and len(message) > len(str(path)) + 40
    )


def test_all_readers_are_ours():
    assert len(readers()) > 3 * len(READ_BY)
    kinds = {type(getattr(reader, 'from_file', reader)) for reader in readers().values()}
    assert kinds == {LoadAnyImage, LoadRandomResizedCrop}
    for scope in ('mmengine', 'mmpretrain', *filter(find_spec, ('mmdet', 'mmseg'))):
        with DefaultScope.overwrite_default_scope(scope):
            for prefix in ('', f'{scope}.'):
                assert TRANSFORMS.get(f'{prefix}LoadImageFromFile') is LoadAnyImage, (scope, prefix)
