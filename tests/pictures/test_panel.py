from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mirl_mm.models import Reconstruction
from mirl_mm.models.masking import patchify
from mirl_mm.pictures.panel import GAP, HEADER, TILE, panel, panel_columns, write_picture


@pytest.fixture
def painted() -> tuple[torch.Tensor, Reconstruction]:
    """Two 8x8 images on a 2x2 grid; decoder g paints g everywhere, patches have mean 10, std 2."""
    imgs = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    preds = tuple(torch.full((2, 4, 48), float(g)) for g in range(4))
    return imgs, Reconstruction(
        preds=preds,
        target=torch.zeros(2, 4, 48),
        mask=mask,
        ids_restore=torch.zeros(2, 4, dtype=torch.long),
        losses=torch.zeros(2, 2),
        pair_errors=torch.zeros(2, 2),
        pairs=[(0, 3), (1, 2)],
        patch_mean=torch.full((2, 4, 1), 10.0),
        patch_std=torch.full((2, 4, 1), 2.0),
        grid=(2, 2),
        patch_size=4,
    )


def test_panel_columns(painted):
    imgs, result = painted
    neighbours = panel_columns(imgs, replace(result, pairs=[(0, 1), (2, 3)]))
    assert list(neighbours)[2:5] == ['main 0', 'residual 1', 'pair_0_1']
    assert list(neighbours)[5:] == ['main 2', 'residual 3', 'pair_2_3']
    columns = panel_columns(imgs, result)
    assert list(columns) == [
        'original',
        'masked',
        *('main 0', 'residual 3', 'pair_0_3'),
        *('main 1', 'residual 2', 'pair_1_2'),
    ]
    assert torch.equal(columns['original'], imgs)
    hidden = result.mask.bool()
    original = patchify(imgs, 4)
    masked = patchify(columns['masked'], 4)
    assert torch.equal(masked[~hidden], original[~hidden])
    assert not masked[hidden].any()
    assert torch.equal(columns['main 1'], torch.full_like(imgs, 1 * 2 + 10))
    assert torch.equal(columns['residual 2'], torch.full_like(imgs, 2 * 2 + 10))
    both = patchify(columns['pair_1_2'], 4)
    assert torch.equal(both[hidden], torch.full_like(both[hidden], (1 + 2) * 2 + 10))
    assert torch.equal(both[~hidden], original[~hidden])


def test_what_paints_alone_has_a_column_each(painted):
    imgs, result = painted
    pairs = [(g,) for g in range(4)]
    columns = panel_columns(imgs, replace(result, pairs=pairs))
    assert list(columns) == ['original', 'masked', 'pair_0', 'pair_1', 'pair_2', 'pair_3']
    hidden, original = result.mask.bool(), patchify(imgs, 4)
    for g in range(4):
        found = patchify(columns[f'pair_{g}'], 4)
        assert torch.equal(found[hidden], torch.full_like(found[hidden], g * 2 + 10))
        assert torch.equal(found[~hidden], original[~hidden])


def test_large_pictures_are_shrunk():
    sheet = panel({'a': torch.full((1, 3, 256, 128), 300.0), 'b': torch.zeros(1, 3, 256, 128)})
    assert sheet.shape == (HEADER + 128, 2 * 64 + GAP, 3)
    assert (sheet[HEADER:, :64] == 255).all() and (sheet[HEADER:, 64 + GAP :] == 0).all()


@pytest.mark.parametrize('channels', [1, 2, 3, 5])
def test_other_channels_are_stretched(channels):
    """16 bits, from the least to the greatest number of each channel in the first column."""
    raw = torch.linspace(0, 1, 128).expand(1, channels, 128, 128)
    low, high = (torch.arange(channels).view(-1, 1, 1) * k for k in (100.0, 5000.0))
    high = high + 9000
    mean, std = torch.full((channels, 1, 1), 800.0), torch.full((channels, 1, 1), 3000.0)
    imgs = (low + raw * (high - low) - mean) / std
    sheet = panel({'a': imgs, 'b': imgs - 1e6}, mean, std)[HEADER:].astype(int)
    wanted = (255 * raw[0, 0]).round().int().numpy()
    for colour in range(3):
        assert np.abs(sheet[:, :128, colour] - wanted).max() <= 1
    assert (sheet[:, 128 + GAP :] == 0).all()
    if channels > 2:
        imgs = imgs.clone()
        imgs[:, 1] = imgs[:, 1].flip(-1)
        sheet = panel({'a': imgs}, mean, std)[HEADER:].astype(int)
        assert np.abs(sheet[..., 1] - wanted[:, ::-1]).max() <= 1
        assert np.abs(sheet[..., 2] - wanted).max() <= 1


def test_rows_have_names_and_pixels_stay_pixels():
    """What is uint8 is drawn as it is, beside normalised images of other channels."""
    raw = torch.linspace(0, 1, 128).expand(2, 5, 128, 128)
    maps = torch.arange(256).view(2, 1, 1, 128).expand(2, 3, 128, 128).byte()
    plain = panel({'a': raw, 'b': maps})
    assert np.array_equal(plain[HEADER : HEADER + 128, 128 + GAP :, 0], maps[0, 0])
    assert np.array_equal(plain[HEADER + 128 + GAP :, 128 + GAP :, 2], maps[1, 0])
    named = panel({'a': raw, 'b': maps}, rows=['one', 'two\nof two'])
    margin = named.shape[1] - plain.shape[1]
    assert 20 < margin < 80 and np.array_equal(named[:, margin:], plain)
    written = (named[:, :margin] < 128).all(-1)  # black on white
    first, second = np.split(written[HEADER:], [128 + GAP // 2])
    assert 0 < first.sum() < second.sum() and not written[:HEADER].any()
    assert not written[:, 0].any() and not written[:, -1].any()


def test_numbers_from_0_to_1_are_seen():
    imgs, std = torch.rand(1, 3, 128, 128), torch.full((3, 1, 1), 0.25)
    imgs[..., 0, 0], imgs[..., 0, 1] = 0, 1
    sheet = panel({'a': (imgs - 0.5) / std}, torch.full((3, 1, 1), 0.5), std)[HEADER:]
    assert np.abs(sheet.transpose(2, 0, 1) - 255 * imgs[0].numpy()).max() <= 1


def test_a_written_panel_shows_the_pixels_twice_as_large(painted, tmp_path):
    imgs, result = painted
    path = tmp_path / 'panel.png'
    mean, std = torch.tensor([255.0, 0, 0]).view(3, 1, 1), torch.ones(3, 1, 1)
    columns = panel_columns(torch.zeros_like(imgs), result)
    write_picture(panel(columns, mean, std, zoom=2), path)
    pixels = np.asarray(Image.open(path).convert('RGB'))
    assert pixels.shape == (2 * (HEADER + 2 * TILE) + GAP, 8 * (2 * TILE + GAP) - GAP, 3)
    assert (pixels[2 * HEADER :, : 2 * TILE] == (255, 0, 0)).all(axis=2).mean() > 0.99
    assert (pixels == (255, 12, 12)).all(axis=2).any()  # main 1
    small = panel(columns, mean, std)
    assert np.array_equal(pixels[2 * HEADER :: 2, ::2][:TILE, :TILE], small[HEADER:][:TILE, :TILE])


@pytest.mark.parametrize(
    ('ending', 'start'),
    [('jpg', b'\xff\xd8'), ('PDF', b'%PDF'), ('svg', b'<?xml'), ('png', b'\x89PNG')],
)
def test_kinds_of_files(painted, tmp_path, ending, start):
    write_picture(panel(panel_columns(*painted)), tmp_path / f'panel.{ending}')
    assert (tmp_path / f'panel.{ending}').read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_rows_are_as_high_as_their_names():
    columns = dict(original=torch.zeros(2, 3, 4, 64, dtype=torch.uint8))  # 8 pixels high
    assert len(panel(columns, rows=['a', 'b'])) == 16 + 2 * (16 + 2) - 2
    assert len(panel(columns, rows=['a\nhead 1', 'b'])) == 16 + 2 * (32 + 2) - 2
    assert len(panel(columns)) == 16 + 2 * (8 + 2) - 2
