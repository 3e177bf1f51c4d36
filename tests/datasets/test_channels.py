"""Images of 1 to N channels and 8 or 16 bits or floating point, from the file to the batch."""

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from mmengine.dataset import Compose
from PIL import Image

from mirl_mm.datasets import LoadAnyImage, LoadRandomResizedCrop, UnlabelledImages
from mirl_mm.datasets.channels import decode_channels, mean_and_std
from mirl_mm.datasets.decode import decode
from mirl_mm.errors import UserError, reason_of
from tests.datasets.test_decode import encode

TOOL = Path(__file__).parents[2] / 'tools/mean_std.py'


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Numbers over all of a type's range; floating point from 0 to 1."""
    drawn = np.random.default_rng(seed).random(shape)
    if np.dtype(dtype).kind == 'f':
        return drawn.astype(dtype)
    info = np.iinfo(dtype)
    return (info.min + drawn * (info.max - info.min)).astype(dtype)


def as_tiff(array: np.ndarray, **settings) -> bytes:
    tifffile.imwrite(buffer := io.BytesIO(), array, **settings)
    return buffer.getvalue()


def as_npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


@pytest.mark.parametrize('write', [as_tiff, as_npy])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'uint16', '>u2', 'int16', 'float16', 'float32'])
def test_every_number_is_kept(write, channels, dtype):
    array = values((6, 7, channels), dtype)
    got = decode_channels(write(array), channels)
    assert got.dtype == (np.uint8 if dtype == 'uint8' else np.float32)
    assert got.flags.c_contiguous and np.array_equal(got, array)


@pytest.mark.parametrize(
    'settings',
    [
        dict(photometric='rgb', planarconfig='contig'),
        dict(photometric='minisblack', planarconfig='contig', compression='zlib', predictor=True),
        dict(photometric='minisblack', tile=(16, 16), planarconfig='contig', bigtiff=True),
        dict(byteorder='>'),  # a page a row, as tifffile takes it if it is not told
    ],
    ids=['interleaved', 'compressed', 'tiles', 'rows'],
)
def test_layouts_of_tiff(settings):
    array = values((24, 32, 5), 'uint16')
    assert np.array_equal(decode_channels(as_tiff(array, **settings), 5), array)


@pytest.mark.parametrize('ending', ['GIF', 'PNG'])
def test_a_palette_gives_its_colours(ending):
    colour = Image.new('P', (6, 4))
    colour.putpalette([10, 20, 30, 200, 100, 50])
    colour.putpixel((1, 2), 1)
    colour.save(buffer := io.BytesIO(), ending)
    got = decode_channels(buffer.getvalue(), 3)
    assert got.shape == (4, 6, 3) and got.dtype == np.uint8
    assert got[2, 1].tolist() == [200, 100, 50] and got[0, 0].tolist() == [10, 20, 30]
    with pytest.raises(UserError, match=r'it is of shape \[4, 6, 3\], not channels=1'):
        decode_channels(buffer.getvalue(), 1)


def test_channels_may_come_first_and_one_needs_no_axis():
    array = values((5, 24, 32), 'uint16')
    planar = as_tiff(array, photometric='minisblack', planarconfig='separate')
    for content in (planar, as_tiff(array), as_npy(array)):
        assert np.array_equal(decode_channels(content, 5), array.transpose(1, 2, 0))
    grey = values((24, 32), 'float32')
    for content in (as_tiff(grey), as_npy(grey), as_npy(grey[None])):
        assert np.array_equal(decode_channels(content, 1), grey[..., None])
    square = values((5, 5, 5), 'uint8')
    assert np.array_equal(decode_channels(as_npy(square), 5), square)  # last, where both are


def test_pictures_keep_16_bits_and_the_order_of_their_channels():
    grey = values((8, 9), 'uint16')
    assert np.array_equal(decode_channels(encode(Image.fromarray(grey), 'PNG'), 1), grey[..., None])
    for mode, channels in (('L', 1), ('RGB', 3), ('RGBA', 4)):
        pixels = values((8, 9, channels), 'uint8').squeeze()
        got = decode_channels(encode(Image.fromarray(pixels, mode), 'PNG'), channels)
        assert got.dtype == np.uint8 and np.array_equal(got.squeeze(), pixels)
    rgb = encode(Image.fromarray(values((8, 9, 3), 'uint8')), 'PNG')
    assert np.array_equal(decode_channels(rgb, 3), decode(rgb)[..., ::-1])


def bad(case: str) -> bytes:
    array = values((8, 9, 4), 'uint16')
    hole = values((8, 9, 5), 'float32')
    hole[2, 3, 1:3] = np.nan
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encode(Image.fromarray(values((64, 64, 3), 'uint8')), 'PNG')
    return {
        'four': as_tiff(array, photometric='rgb', planarconfig='contig'),
        'grey': as_npy(array[..., 0]),
        'stack': as_npy(array[None, None]),
        'rgb': encode(Image.new('RGB', (4, 3)), 'PNG'),
        'int32': as_npy(values((8, 9, 5), 'int32')),
        'complex': as_npy(np.zeros((8, 9, 5), 'complex64')),
        'hole': as_npy(hole),
        'large': as_npy(np.full((2, 2, 5), 1e300)),
        'turned': encode(Image.new('L', (4, 2)), 'JPEG', exif=exif),
        'turned tiff': as_tiff(
            values((8, 9, 5), 'uint8'),
            planarconfig='contig',
            extratags=[(274, 'H', 1, 3, True)],
        ),
        'empty': b'',
        'text': b'no picture at all',
        'cut tiff': as_tiff(array, compression='zlib')[:400],
        'cut npy': as_npy(array)[:300],
        'cut png': png[: len(png) // 2],
        'objects': as_npy(np.array([None])),
    }[case]


@pytest.mark.parametrize(
    ('case', 'channels', 'said'),
    [
        ('four', 0, 'channels=0; accepted is a number from 1 on'),
        ('four', 5, r'it is of shape \[8, 9, 4\], not channels=5: \[H, W, 5\] or \[5, H, W\]'),
        ('grey', 5, r'it is of shape \[8, 9, 1\], not channels=5'),
        ('stack', 5, r'it is of shape \[1, 1, 8, 9, 4\], not channels=5'),
        ('rgb', 1, r'it is of shape \[3, 4, 3\], not channels=1: .* or \[H, W\]'),
        ('int32', 5, 'its numbers are of type int32; accepted are integers of 8 and 16 bits and'),
        ('complex', 5, 'its numbers are of type complex64; accepted are'),
        ('hole', 5, '2 of its 360 numbers are not finite: fill them in'),
        ('large', 5, '20 of its 20 numbers are not finite'),
        ('turned', 1, r'a tag turns it \(orientation 6\): turn its pixels, and remove the tag'),
        ('turned tiff', 5, r'a tag turns it \(orientation 3\)'),
        ('empty', 5, 'it is no TIFF, no .npy and no picture that Pillow reads'),
        ('text', 5, 'it is no TIFF, no .npy and no picture that Pillow reads'),
        ('cut tiff', 4, '.'),
        ('cut npy', 4, 'EOF: reading array data, expected'),
        ('cut png', 3, 'truncated'),
        ('objects', 1, 'allow_pickle=False'),
    ],
)
def test_what_is_wrong_is_one_line(case, channels, said, tmp_path):
    (tmp_path / 'x.tif').write_bytes(bad(case))
    readers = LoadAnyImage(channels=channels), LoadRandomResizedCrop(8, channels=channels)
    for read in readers:
        with pytest.raises(UserError, match=rf'^cannot read the image .*x\.tif: .*{said}') as error:
            read(dict(img_path=str(tmp_path / 'x.tif')))
        assert '\n' not in reason_of(error.value)


def test_the_default_reads_rgb_as_ever(tmp_path):
    pixels = values((40, 50, 3), 'uint8')
    Image.fromarray(pixels).save(tmp_path / '0.png')
    got = LoadAnyImage()(dict(img_path=str(tmp_path / '0.png')))
    assert got['img'].dtype == np.uint8 and np.array_equal(got['img'], pixels[..., ::-1])
    (tmp_path / '0.npy').write_bytes(as_npy(pixels))
    with pytest.raises(UserError, match='that Pillow reads as RGB; channels=N of the loader reads'):
        LoadAnyImage()(dict(img_path=str(tmp_path / '0.npy')))
    images = UnlabelledImages(str(tmp_path), pipeline=[])
    assert [Path(images.get_data_info(i)['img_path']).name for i in range(len(images))] == ['0.png']


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('channels', [1, 2, 4, 5, 7])
def test_the_crop_is_each_channel_s_own(dtype, channels, tmp_path):
    """The same box and flip for all, and the filter of one channel alone."""
    array = values((50, 60, channels), dtype)
    (tmp_path / 'all.npy').write_bytes(as_npy(array))
    got = cropped(tmp_path / 'all.npy', channels)
    assert got['img'].shape == (16, 16, channels) and got['ori_shape'] == (50, 60)
    scale = 1 if dtype == 'float32' else np.iinfo(dtype).max
    for i in range(channels):
        (tmp_path / 'one.npy').write_bytes(as_npy(array[..., i]))
        one = cropped(tmp_path / 'one.npy', 1)
        assert one['flip'] == got['flip']
        off = np.abs(one['img'][..., 0].astype(float) - got['img'][..., i])
        assert off.max() <= (1 if dtype == 'uint8' else 1e-6 * scale)


def cropped(path: Path, channels: int) -> dict:
    np.random.seed(3)
    return LoadRandomResizedCrop(16, flip_prob=0.5, channels=channels)(dict(img_path=str(path)))


def test_the_steps_of_mmpretrain_take_them(tmp_path):
    array = values((50, 60, 5), 'uint16')
    (tmp_path / '0.tif').write_bytes(as_tiff(array, planarconfig='contig'))
    steps = [
        dict(type='LoadImageFromFile', channels=5),
        dict(type='RandomResizedCrop', scale=24, backend='cv2', interpolation='bicubic'),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackInputs'),
    ]
    packed = Compose(scoped(steps))(dict(img_path=str(tmp_path / '0.tif')))
    assert packed['inputs'].shape == (5, 24, 24) and packed['inputs'].dtype == torch.float32
    whole = [steps[0], dict(type='CenterCrop', crop_size=20), steps[-1]]
    packed = Compose(scoped(whole))(dict(img_path=str(tmp_path / '0.tif')))
    middle = array[15:35, 20:40].transpose(2, 0, 1).astype(np.float32)
    assert np.array_equal(packed['inputs'].numpy(), middle)


def scoped(steps: list[dict]) -> list[dict]:
    return [dict(step, type=f'mmpretrain.{step["type"]}') for step in steps]


def test_a_folder_lists_arrays_when_it_is_asked(tmp_path):
    array = values((20, 20, 5), 'uint16')
    for name in ('a.npy', 'b.tif', 'c.NPY', 'd.txt'):
        (tmp_path / name).write_bytes(as_npy(array))
    steps = [dict(type='LoadAnyImage', channels=5)]
    images = UnlabelledImages(str(tmp_path), extensions=('.npy', '.tif'), pipeline=steps)
    assert [Path(images[i]['img_path']).name for i in range(len(images))] == [
        'a.npy',
        'b.tif',
        'c.NPY',
    ]
    assert np.array_equal(images[0]['img'], array)


def test_a_file_of_other_channels_is_skipped_and_counted(tmp_path):
    for name, channels in (('0', 5), ('1', 4), ('2', 5)):
        (tmp_path / f'{name}.npy').write_bytes(as_npy(values((20, 20, channels), 'uint8')))
    steps = [dict(type='LoadAnyImage', channels=5)]
    images = UnlabelledImages(str(tmp_path), extensions=('.npy',), pipeline=steps)
    assert images[1]['img_path'].endswith('2.npy') and images.bad_images() == [1]


def test_mean_and_std():
    images = [values((h, 7, 3), 'float64', seed=h) * [1, 100, 1e4] + 5 for h in (2, 9, 4)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    mean, std = mean_and_std(images)
    assert mean == pytest.approx(pixels.mean(axis=0)) and std == pytest.approx(pixels.std(axis=0))


def told(*arguments: object) -> list[str]:
    sys.argv = ['mean_std.py', *map(str, arguments)]
    runpy.run_path(str(TOOL))['main']()


def test_the_tool_prints_lines_for_a_config(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [])
    array = values((20, 20, 5), 'uint16')
    (tmp_path / 'a.npy').write_bytes(as_npy(array))
    told(tmp_path, '--channels', 5)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == '1 of 1 images, 5 channels'
    found = eval(f'dict({"".join(line.partition("#")[0] for line in lines)})')
    flat = array.reshape(-1, 5).astype(float)
    assert found['mean'] == pytest.approx(flat.mean(axis=0), rel=1e-5)
    assert found['std'] == pytest.approx(flat.std(axis=0), rel=1e-5)
    assert found['to_rgb'] is False
    with pytest.raises(UserError, match=r'no image in .*; accepted are files in \.jpg'):
        told(tmp_path)
    Image.new('RGB', (4, 4), (9, 0, 0)).save(tmp_path / '0.png')
    Image.new('RGB', (4, 4), (11, 2, 4)).save(tmp_path / '1.png')
    told(tmp_path)
    out = capsys.readouterr().out
    assert 'mean=[10, 1, 2],' in out and 'std=[1, 1, 2],' in out and 'to_rgb=True' in out
    (tmp_path / '1.png').unlink()
    with pytest.raises(UserError, match=r'channel 0 \(from 0 on\) is 9 everywhere'):
        told(tmp_path)
