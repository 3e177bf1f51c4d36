"""Maps of features: their signs and scales, and the attention in them against the blocks' own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope

from mirl_mm.measure.features import attention_rows, block_tokens
from mirl_mm.pictures.features import (
    MARK,
    component_colours,
    feature_maps,
    framed,
    guides_of,
    in_colours,
    segment_ends,
)

ARCH = dict(embed_dims=24, num_layers=4, num_heads=3, feedforward_channels=48)
ENCODERS = {
    'ours': dict(type='MIRLViT', num_segments=2),
    'registers': dict(type='MIRLViT', num_segments=2, num_registers=3),
    'mae': dict(type='MAEViT'),
    'stock': dict(type='VisionTransformer'),
}


def encoder(name: str, patch: int = 8, **settings):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    vit = MODELS.build(ENCODERS[name] | dict(arch=ARCH, img_size=32, patch_size=patch) | settings)
    for parameter in vit.parameters():
        parameter.data.normal_(std=0.3)
    vit.eval()
    return vit


def pictures(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize('name', ENCODERS)
@pytest.mark.parametrize('token', [0, 7])
def test_attention_is_an_explicit_softmax(name, token):
    """Every head's row, of blocks in the middle and at both ends, on a rectangle."""
    vit, imgs = encoder(name), pictures(16, 40)
    rows = attention_rows(vit, imgs, [0, 2, 3], token)
    tokens = 1 + 3 * (name == 'registers') + 2 * 5
    assert rows.shape == (2, 3, 3, tokens)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3, 3))
    into = {}
    for b, block in enumerate(vit.layers):
        block.register_forward_pre_hook(lambda _, given, b=b: into.update({b: given[0]}))
    list(block_tokens(vit, imgs, [3]))
    for k, b in enumerate([0, 2, 3]):
        attn, x = vit.layers[b].attn, vit.layers[b].ln1(into[b])
        q, key, value = (
            part.view(2, tokens, 3, 8).transpose(1, 2) for part in attn.qkv(x).chunk(3, dim=-1)
        )
        weights = (q @ key.mT / 8**0.5).softmax(-1)  # all of them
        torch.testing.assert_close(rows[:, k], weights[:, :, token], rtol=0, atol=1e-6)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attn.proj(mixed), attn(x), rtol=0, atol=1e-5)  # the block's
    assert rows.std() > 0.01


@pytest.mark.parametrize('name', ENCODERS)
def test_a_map_shows_its_numbers(name):
    vit, imgs = encoder(name), pictures(16, 40)
    extra, at = vit.num_extra_tokens, (1, 3)
    token = extra + 1 * 5 + 3

    def squares(maps):
        """The middles of patches, [2, 5, 3]; a frame lies outside its own patch."""
        return maps.permute(1, 2, 0)[4::8, 4::8]

    maps = feature_maps(vit, imgs, 'attention', [1, 3], at, heads=True)
    assert maps.shape == (2, 2 * 3, 3, 16, 40) and maps.dtype == torch.uint8
    rows = attention_rows(vit, imgs, [1, 3], token)
    times = rows[1, 0, 2, extra:] * rows.shape[-1]  # the second image, block 1, head 2
    wanted = in_colours(0.5 + times.log2() / 4).view(2, 5, 3) * 255  # from a quarter to four times
    assert (squares(maps[0, 3 + 2]) - wanted).abs().max() <= 0.51
    mean = feature_maps(vit, imgs, 'attention', [3], at)[0, 0]
    times = rows[0, 1].mean(0)[extra:] * rows.shape[-1]
    wanted = in_colours(0.5 + times.log2() / 4).view(2, 5, 3) * 255
    assert (squares(mean) - wanted).abs().max() <= 0.51
    for chosen, place in ((at, token), (None, 0)):
        found = feature_maps(vit, imgs, 'similarity', [2], chosen)[0, 1]
        with torch.no_grad():
            (tokens,) = block_tokens(vit, imgs, [2])
        near = F.cosine_similarity(tokens[1, extra:], tokens[1, place, None], dim=-1)
        wanted = in_colours(-(1 - near).clamp(min=1e-6).log10() / 3).view(2, 5, 3) * 255
        assert (squares(found) - wanted).abs().max() <= 1.01
    assert squares(feature_maps(vit, imgs, 'similarity', [2], at)[0, 0])[1, 3].tolist() == [253, 231, 37]  # fmt: skip  # noqa: E501


def test_colours_go_from_dark_to_bright_and_stop_there():
    ends = in_colours(torch.tensor([-torch.inf, -1, 0, 1, 3])) * 255
    dark, bright = [68, 1, 84], [253, 231, 37]
    assert ends.round().int().tolist() == [dark] * 3 + [bright] * 2


def scores_to_tokens(scores: torch.Tensor, width: int = 8) -> torch.Tensor:
    """Tokens [L, width] whose components are these [L, 3], strongest first."""
    basis = torch.linalg.qr(torch.randn(width, 3, generator=torch.Generator().manual_seed(3)))[0]
    return scores @ basis.mT + 5


def test_components_are_the_colours():
    """Each by its own deviation, two of which are the ends."""
    side = torch.arange(6.0)
    rows, columns = (each.flatten() for each in torch.meshgrid(side, side, indexing='ij'))
    rows, columns = rows - 2.5, columns - 2.5
    bright = (rows * columns).sign() * 1.0
    imgs = (
        bright.view(1, 1, 6, 6).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 24, 24)
    )
    guides = guides_of(imgs, (6, 6))[0]
    torch.testing.assert_close(guides[:, 0], bright)
    tokens = scores_to_tokens(torch.stack([-9 * columns, 5 * rows, -2 * bright], 1))
    found = component_colours(tokens, guides).float()
    for i, one in enumerate((columns, rows, bright)):  # minus signs are gone
        wanted = (0.5 + one / one.std(correction=0) / 4).clamp(0, 1)
        torch.testing.assert_close(found[:, i], wanted, rtol=0, atol=1e-4)


def test_the_sign_of_an_eigenvector_is_no_matter(monkeypatch):
    vit, imgs = encoder('ours'), pictures(32, 48)
    before, eigh = feature_maps(vit, imgs, 'pca', [1, 3], None), torch.linalg.eigh
    assert before.float().std() > 20
    again = feature_maps(vit, imgs, 'pca', [1, 3], None)
    assert torch.equal(before, again)

    def flipped(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * torch.tensor([-1.0, 1, -1]).repeat(8)

    monkeypatch.setattr(torch.linalg, 'eigh', flipped)
    assert torch.equal(feature_maps(vit, imgs, 'pca', [1, 3], None), before)


def test_scale_and_place_of_the_features_are_no_matter():
    tokens = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    guides = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    found = component_colours(tokens, guides)
    turned = component_colours(70 * tokens @ turn - 3, guides)
    torch.testing.assert_close(turned, found, rtol=0, atol=1e-4)
    assert (component_colours(tokens, -guides) - (1 - found)).abs().max() < 1e-9


def test_equal_patches_are_grey():
    assert (component_colours(torch.full((9, 8), 0.7), torch.ones(9, 3)) == 0.5).all()


@pytest.mark.parametrize('name', ['ours', 'stock'])
@pytest.mark.parametrize(('patch', 'size'), [(8, (24, 56)), (14, (42, 28)), (16, (16, 16))])
def test_other_sizes_and_channels(name, patch, size):
    vit = encoder(name, patch, img_size=2 * patch, in_channels=5)
    for what in ('pca', 'attention', 'similarity'):
        maps = feature_maps(vit, pictures(*size, channels=5), what, [0, 3], (0, 0))
        assert maps.shape == (2, 2, 3, *size)


def test_a_frame_lies_around_its_patch():
    pixels = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    found = framed(pixels, (2, 3), (1, 1))
    changed = (found[0] == MARK).all(0)
    wanted = torch.zeros(16, 24, dtype=torch.bool)
    wanted[6:16, 6:18] = True  # two pixels on each side, cut at the border
    wanted[8:16, 8:16] = False
    assert torch.equal(changed, wanted) and torch.equal(found[0, 0] > 0, wanted)
    assert framed(pixels, (2, 3), None) is pixels
    assert np.array_equal(MARK.flatten(), [255, 60, 60])


@pytest.mark.parametrize(
    ('name', 'depth', 'ends'),
    [('ours', 4, [1, 3]), ('stock', 4, [0, 1, 2, 3]), ('mae', 12, [2, 5, 8, 11]),
     ('stock', 10, [1, 4, 7, 9]), ('stock', 3, [0, 1, 2])],
)  # fmt: skip
def test_the_ends_of_segments_or_quarters(name, depth, ends):
    vit = encoder(name, arch=dict(ARCH, num_layers=depth))
    assert segment_ends(vit) == ends
