import re

import pytest
import torch

from mirl_mm.models.masking import (
    check_image_size,
    named_noise,
    num_kept,
    patchify,
    random_masking,
    sincos_positions,
    unpatchify,
)
from tests.reference import sincos


def test_noise_follows_names():
    imgs = torch.zeros(2, 3, 32, 32)
    one, two = named_noise(['0 a.png', '0 b.png'], imgs, 8)
    assert one.shape == (16,)
    assert torch.equal(named_noise(['0 b.png'], imgs, 8)[0], two)
    assert not torch.equal(one, two)
    assert not torch.equal(named_noise(['1 a.png'], imgs, 8)[0], one)


@pytest.mark.parametrize(
    ('patches', 'ratio', 'kept'),
    [(196, 0.75, 49), (16, 0.75, 4), (36, 0.6, 14), (10, 0.95 - 0.05, 1), (2, 0.5, 1)],
)
def test_number_of_kept_patches(patches, ratio, kept):
    assert num_kept(patches, ratio) == kept


@pytest.mark.parametrize(
    ('patches', 'ratio', 'keeps'), [(196, 1, 0), (16, 0.95, 0), (16, 0, 16), (16, -0.5, 24)]
)
def test_a_ratio_has_to_keep_and_to_mask_something(patches, ratio, keeps):
    with pytest.raises(ValueError, match='accepted is') as error:
        num_kept(patches, ratio)
    assert f'mask_ratio={ratio} keeps {keeps} of {patches} patches' in str(error.value)


@pytest.mark.parametrize('patches', [2, 3, 7, 16, 49, 100, 196, 256, 576, 1024])
def test_the_message_names_the_true_bound(patches):
    with pytest.raises(ValueError, match='accepted is') as error:
        num_kept(patches, 1)
    bound = 1 - 1 / int(
        re.search(r'accepted is 0 < mask_ratio < 1 - 1/(\d+)$', str(error.value))[1]
    )
    assert num_kept(patches, bound - 1e-6) == 1
    with pytest.raises(ValueError, match='keeps 0'):
        num_kept(patches, bound + 1e-6)


def test_random_masking_by_hand():
    noise = torch.tensor([[0.3, 0.1, 0.4, 0.2], [9.0, 8.0, 7.0, -1.0]])
    ids_keep, ids_restore, mask = random_masking(noise, kept=2)
    assert ids_keep.tolist() == [[1, 3], [3, 2]]
    assert ids_restore.tolist() == [[2, 0, 3, 1], [3, 2, 1, 0]]
    assert mask.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]


def test_equal_noise_keeps_the_first():
    ids_keep, _, mask = random_masking(torch.zeros(1, 200), kept=50)
    assert ids_keep[0].tolist() == list(range(50))
    assert mask[0].tolist() == [0] * 50 + [1] * 150


def test_patchify_by_hand():
    p, height, width, channels = 2, 4, 6, 3
    imgs = torch.randn(2, channels, height, width)
    patches = patchify(imgs, p)
    assert patches.shape == (2, 6, 12)
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                place = (y // p) * (width // p) + x // p, (y % p * p + x % p) * channels + c
                assert torch.equal(patches[:, place[0], place[1]], imgs[:, c, y, x])
    assert torch.equal(unpatchify(patches, (2, 3), p), imgs)


@pytest.mark.parametrize('size', [(24, 16), (16, 24), (8, 16), (0, 16)])
def test_an_image_has_to_be_cut_evenly(size):
    with pytest.raises(
        ValueError, match=rf'image size {size[0]}x{size[1]} .* patch_size=16: .* multiple'
    ):
        check_image_size(size, 16)
    with pytest.raises(
        ValueError, match=rf'image size {size[0]}x{size[1]} .* patch_size=16: .* multiple'
    ):
        patchify(torch.zeros(1, 3, *size), 16)


@pytest.mark.parametrize(('dim', 'grid'), [(8, (3, 3)), (12, (2, 5)), (48, (5, 1)), (384, (14, 9))])
def test_positions_are_those_of_the_reference(dim, grid):
    table = sincos_positions(dim, grid)
    assert table.dtype == torch.float32
    assert table.shape == (1, 1 + grid[0] * grid[1], dim)
    torch.testing.assert_close(table, sincos(dim, grid), rtol=0, atol=1e-7)
    assert torch.equal(sincos_positions(dim, grid, cls_token=False), table[:, 1:])


def test_first_half_of_the_width_is_the_column():
    table = sincos_positions(16, (4, 5), cls_token=False).reshape(4, 5, 16)
    assert torch.equal(table[0, :, :8], table[3, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    assert not torch.equal(table[:, :4, :8], table[:, 1:, :8])


def test_positions_need_a_width_of_four():
    with pytest.raises(ValueError, match='divisible by 4, got 10'):
        sincos_positions(10, (2, 2))
