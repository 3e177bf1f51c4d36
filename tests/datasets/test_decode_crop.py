import importlib.resources
import io

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image, ImageOps

from mirl_mm.datasets import LoadAnyImage, LoadRandomResizedCrop
from mirl_mm.datasets.decode import (
    ORIENTATION,
    cut,
    decode_rgb,
    jpeg_header,
    reduced,
    resized,
    stored_box,
)
from mirl_mm.errors import UserError

CROP = dict(scale=(56, 48), crop_ratio_range=(0.2, 1.0))


@pytest.fixture(scope='module')
def photographs() -> list[Image.Image]:
    names = ('astronaut.png', 'coffee.png', 'rocket.jpg', 'grass.png')
    folder = importlib.resources.files('skimage') / 'data'
    return [Image.open(io.BytesIO((folder / n).read_bytes())).convert('RGB') for n in names]


def jpeg(image: Image.Image, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', **(dict(quality=90) | kwargs))
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path):
    def write(content: bytes, name: str = 'a.jpg') -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def separate(flip_prob: float = 0.5, **crop) -> list:
    """The three transforms that ours stands for."""
    init_default_scope('mmpretrain')
    crop = dict(type='RandomResizedCrop', backend='pillow', interpolation='bicubic', **crop)
    flip = dict(type='RandomFlip', prob=flip_prob)
    return [LoadAnyImage(), TRANSFORMS.build(crop), TRANSFORMS.build(flip)]


def run(transforms: list, path: str, seed: int) -> dict:
    np.random.seed(seed)
    results = dict(img_path=path)
    for transform in transforms:
        results = transform(results)
    return results


def boxes(crop) -> list:
    """The boxes that a transform draws from now on."""
    drawn, draw = [], crop.rand_crop_params

    def remember(img):
        drawn.append(draw(img))
        return drawn[-1]

    crop.rand_crop_params = remember
    return drawn


def difference(ours: dict, theirs: dict) -> np.ndarray:
    assert ours['img'].shape == theirs['img'].shape and ours['img'].dtype == np.uint8
    return np.abs(ours['img'].astype(int) - theirs['img'])


def test_same_boxes_flips_and_nearly_the_same_pixels(photographs, file):
    theirs, ours = separate(**CROP), [LoadRandomResizedCrop(flip_prob=0.5, **CROP)]
    their_boxes, our_boxes = boxes(theirs[1]), boxes(ours[0])
    flips, means = [], []
    for seed in range(60):
        picture = photographs[seed % len(photographs)].resize((250, 188))
        path = file(jpeg(picture, subsampling=seed % 3, progressive=seed % 2))
        a, after_ours = run(ours, path, seed), np.random.random()
        b, after_theirs = run(theirs, path, seed), np.random.random()
        assert after_ours == after_theirs
        for key in ('ori_shape', 'img_shape', 'flip', 'flip_direction'):
            assert a[key] == b[key], key
        moved = difference(a, b)
        assert moved.max() <= 2
        means.append(moved.mean())
        flips.append(a['flip'])
    assert our_boxes == their_boxes and len(set(their_boxes)) == 60
    assert np.mean(means) < 0.01
    assert 15 < sum(flips) < 45


def test_without_a_flip_nothing_is_drawn_or_said(photographs, file):
    path = file(jpeg(photographs[0]))
    results = run([LoadRandomResizedCrop(**CROP)], path, 0)
    after = np.random.random()
    run(separate(**CROP)[:2], path, 0)
    assert after == np.random.random()
    assert 'flip' not in results


@pytest.mark.parametrize(
    ('mode', 'fmt'),
    [('RGB', 'PNG'), ('RGB', 'WEBP'), ('L', 'JPEG'), ('L', 'PNG'), ('CMYK', 'JPEG'), ('P', 'PNG')],
)
def test_other_kinds_of_files(photographs, file, mode, fmt):
    picture = photographs[1].resize((90, 70)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **(dict(lossless=True) if fmt == 'WEBP' else {}))
    path = file(buffer.getvalue())
    ours, theirs = run([LoadRandomResizedCrop(**CROP)], path, 1), run(separate(**CROP)[:2], path, 1)
    assert difference(ours, theirs).max() <= 2
    assert ours['ori_shape'] == (70, 90)


def test_sixteen_bits(file):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (80, 60), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    path = file(buffer.getvalue())
    ours, theirs = run([LoadRandomResizedCrop(**CROP)], path, 1), run(separate(**CROP)[:2], path, 1)
    assert difference(ours, theirs).max() <= 2


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('gap', [None, 1.0])
def test_turned_as_exif_says(photographs, file, orientation, gap):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = photographs[0].resize((400, 300)).reduce(2).resize((400, 300))  # without fine detail
    path = file(jpeg(picture, exif=exif, subsampling=0))
    crop = dict(CROP, crop_ratio_range=(0.6, 0.8))
    ours = run([LoadRandomResizedCrop(reducing_gap=gap, **crop)], path, 3)
    theirs = run(separate(**crop)[:2], path, 3)
    moved = difference(ours, theirs)
    assert ours['ori_shape'] == theirs['ori_shape']
    assert moved.max() <= 2 if gap is None else (moved.mean() < 3 and moved.max() > 2)


def test_the_box_of_a_turned_picture():
    picture = np.arange(6 * 9).reshape(6, 9, 1)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(picture[..., 0].astype(np.uint8))
        image.info['exif'] = exif.tobytes()
        seen = np.asarray(ImageOps.exif_transpose(image))
        box = (1, 2, 3, 4) if orientation < 5 else (2, 1, 4, 3)
        stored = cut(picture, stored_box(box, (6, 9), orientation))
        assert sorted(stored.ravel()) == sorted(cut(seen, box).ravel())


def test_a_turned_crop_is_cut_from_the_picture_as_it_is_seen(photographs, file):
    seen = np.asarray(photographs[0].resize((90, 60)))[..., ::-1]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = file(jpeg(photographs[0].resize((90, 60)), exif=exif, subsampling=0, quality=100))
        crop = LoadRandomResizedCrop(scale=(30, 20), reducing_gap=None)
        crop.rand_crop_params = lambda img: (11, 17, 30, 20)  # as large as the output
        found = run([crop], path, 0)
        image = Image.fromarray(np.ascontiguousarray(seen))
        image.info['exif'] = exif.tobytes()
        turned = np.asarray(ImageOps.exif_transpose(image), int)
        assert found['ori_shape'] == turned.shape[:2]
        assert np.abs(found['img'] - cut(turned, (11, 17, 30, 20))).max() <= 8  # JPEG


@pytest.mark.parametrize('kind', ['noise', 'black and white', 'chequers'])
def test_the_filter_is_pillows_within_two_levels(kind):
    rng = np.random.default_rng(0)
    for _ in range(25):
        height, width = rng.integers(20, 300, 2)
        size = tuple(int(side) for side in rng.integers(16, 160, 2))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if kind == 'black and white':
            image = np.where(image > 127, 255, 0).astype(np.uint8)
        elif kind == 'chequers':
            squares = np.indices((height, width)).sum(0) // rng.integers(1, 9) % 2 * 255
            image = np.repeat(squares[..., None], 3, axis=2).astype(np.uint8)
        expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
        moved = np.abs(resized(image, size).permute(1, 2, 0).numpy() - np.asarray(expected, int))
        assert moved.max() <= 2 and moved.mean() < 0.6


def test_reduced_decoding_stays_within_its_bound(photographs):
    means = []
    for picture in photographs:
        content = jpeg(picture)
        for seed, factor in enumerate((2, 4, 8)):
            rng = np.random.default_rng(seed)
            height, width = (int(rng.integers(side // 2, side)) for side in picture.size[::-1])
            box = (picture.height - height, int(rng.integers(picture.width - width)), height, width)
            size = (height // (3 * factor), width // (3 * factor))
            whole = resized(cut(decode_rgb(content), box), size).permute(1, 2, 0).numpy()
            part = reduced(Image.open(io.BytesIO(content)), box, size, factor)
            moved = np.abs(whole - part.astype(int))
            assert moved.max() <= 40 and moved.mean() < 2
            means.append(moved.mean())
    assert np.mean(means) < 1


def test_only_crops_with_pixels_to_spare_are_reduced():
    crop = LoadRandomResizedCrop(scale=100)  # reducing_gap=3
    sizes = {599: 1, 600: 2, 1199: 2, 1200: 4, 2400: 8, 9999: 8}
    for side, factor in sizes.items():
        assert crop._reduction((0, 0, side, 9999), crop.scale) == factor
        assert crop._reduction((0, 0, 9999, side), crop.scale) == factor
    assert LoadRandomResizedCrop(100, reducing_gap=None)._reduction((0, 0, 9999, 9999), (8, 8)) == 1


@pytest.mark.parametrize('gap', [None, 1.0])
def test_truncated_jpegs_raise(photographs, file, gap):
    whole = jpeg(photographs[0].resize((300, 300)))
    for share in (0.1, 0.5, 0.9, 0.99):
        path = file(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=rf'cannot read the image {path}: .*truncated'):
            run([LoadRandomResizedCrop(reducing_gap=gap, **CROP)], path, 0)


def test_what_is_no_image_raises(file):
    with pytest.raises(UserError, match='no image in a format that Pillow reads'):
        run([LoadRandomResizedCrop(**CROP)], file(b'<html>not found</html>'), 0)


def test_only_grey_and_colour_jpegs_have_a_header(photographs):
    picture = photographs[1].resize((90, 70))
    for kwargs in (dict(), dict(progressive=True), dict(icc_profile=b'x' * 9)):
        size, orientation = jpeg_header(jpeg(picture, **kwargs))
        assert (size, orientation in (None, 1)) == ((70, 90), True)
    tags = Image.Exif()
    tags[ORIENTATION] = 6  # the size is that of the stored picture
    assert jpeg_header(jpeg(picture, exif=tags.tobytes())) == ((70, 90), 6)
    assert jpeg_header(jpeg(picture.convert('L')))[0] == (70, 90)
    assert jpeg_header(jpeg(picture.convert('CMYK'))) is None
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    assert jpeg_header(buffer.getvalue()) is None


def test_bad_settings():
    with pytest.raises(ValueError, match=r'reducing_gap must be at least 1, or None; got 0.5'):
        LoadRandomResizedCrop(224, reducing_gap=0.5)
    with pytest.raises(ValueError, match=r'flip_prob must be from 0 to 1, got 1.5'):
        LoadRandomResizedCrop(224, flip_prob=1.5)
    assert 'flip_prob=0.5, reducing_gap=3.0' in repr(LoadRandomResizedCrop(224, flip_prob=0.5))
