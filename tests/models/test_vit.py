import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.models import ImageClassifier, VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import nn

from mirl_mm.checkpoint import backbone_state, convert_official
from mirl_mm.models import ARCHS, MIRLViT
from mirl_mm.models.masking import sincos_positions
from tests.models.build import images, mirl, reference, small_mirl

DICT_ARCH = {'embed_dims': 24, 'num_layers': 4, 'num_heads': 2, 'feedforward_channels': 96}


def small_vit(**changes) -> MIRLViT:
    torch.manual_seed(0)
    return MIRLViT(
        **{'arch': DICT_ARCH, 'img_size': 32, 'patch_size': 8, 'num_segments': 2, **changes}
    )


def without(dictionary: dict, key: str) -> dict:
    return {k: v for k, v in dictionary.items() if k != key}


# --- the arch table -------------------------------------------------------------------------------

TABLE = {  # width, depth, heads, segments
    'test': (48, 12, 4, 6),
    's12': (384, 12, 12, 4),
    's54': (384, 54, 12, 6),
    'b12': (768, 12, 12, 4),
    'b24': (768, 24, 12, 4),
    'b48': (768, 48, 12, 6),
    'l24': (1024, 24, 16, 4),
    'h32': (1280, 32, 16, 4),
}


@pytest.mark.parametrize('arch', TABLE)
def test_the_table_is_the_published_one(arch):
    keys = ('embed_dims', 'num_layers', 'num_heads', 'num_segments')
    assert tuple(ARCHS[arch][key] for key in keys) == TABLE[arch]


@pytest.mark.parametrize('arch', ARCHS)
def test_arch(arch):
    width, depth = ARCHS[arch]['embed_dims'], ARCHS[arch]['num_layers']
    heads, segments = ARCHS[arch]['num_heads'], ARCHS[arch]['num_segments']
    with torch.device('meta'):
        vit = MIRLViT(arch)
    assert (vit.embed_dims, vit.num_layers, vit.num_segments) == (width, depth, segments)
    assert len(vit.layers) == depth
    assert {layer.attn.num_heads for layer in vit.layers} == {heads}
    block = 12 * width**2 + 13 * width  # qkv, proj, two of the MLP; their biases; two LayerNorms
    patches, positions = (16 * 16 * 3 + 1) * width, 197 * width
    expected = depth * block + patches + positions + width + 2 * width  # cls, final norm
    assert sum(p.numel() for p in vit.parameters()) == expected


def test_segments_of_a_dict_arch():
    assert MIRLViT({**DICT_ARCH, 'num_layers': 12}).num_segments == 6
    assert small_vit().num_segments == 2


# --- without a mask it is mmpretrain's ------------------------------------------------------------


def stock_arch() -> dict:
    return {'embed_dims': 48, 'num_layers': 12, 'num_heads': 4, 'feedforward_channels': 192}


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'featmap', 'avg_featmap'])
@pytest.mark.parametrize('out_indices', [-1, [2, 5, 8, 11]])
def test_stock_vision_transformer_takes_the_weights(out_type, out_indices):
    official = convert_official(reference().state_dict())
    kwargs = {'img_size': 64, 'out_type': out_type}
    stock = VisionTransformer(stock_arch(), **kwargs, out_indices=out_indices)
    ours = MIRLViT('test', **kwargs, out_indices=out_indices)
    assert stock.state_dict().keys() == ours.state_dict().keys()
    averaged = {'ln2.weight', 'ln2.bias'} if out_type == 'avg_featmap' else set()  # fc_norm
    for vit in stock, ours:
        missing, unexpected = vit.load_state_dict(backbone_state(official), strict=False)
        assert set(missing) == averaged
        assert not unexpected
    imgs = images(2, 64)
    with torch.no_grad():
        expected, found = stock(imgs), ours(imgs)
    assert len(expected) == len(found) == (1 if out_indices == -1 else 4)
    for left, right in zip(expected, found, strict=True):
        assert torch.equal(left, right)
        assert left.std() > 0.1


def test_a_stock_classifier_with_its_own_norm_leaves_ours_over():
    official = backbone_state(convert_official(reference().state_dict()))
    stock = VisionTransformer(stock_arch(), 64, out_type='avg_featmap', final_norm=False)
    missing, unexpected = stock.load_state_dict(official, strict=False)
    assert set(missing) == {'ln2.weight', 'ln2.bias'}
    assert set(unexpected) == {'ln1.weight', 'ln1.bias'}


def test_layer_depth_is_mmpretrains():
    model = mirl(backbone={'arch': 'test'})
    assert model.get_layer_depth('backbone.cls_token') == (0, 14)
    assert model.get_layer_depth('backbone.layers.11.ln1.weight') == (12, 14)
    assert model.get_layer_depth('backbone.ln1.weight') == (13, 14)


def test_positions_are_trainable_on_their_own():
    vit = small_vit()
    assert vit.pos_embed.requires_grad
    vit(images(1, 32))[0][:, 0].sum().backward()  # the sum of all is the final norm's: constant
    assert vit.pos_embed.grad.norm() > 0.01


# --- register tokens and layer scale --------------------------------------------------------------


def with_registers(**changes) -> MIRLViT:
    vit = small_vit(num_registers=3, layer_scale_init_value=0.5, **changes)
    vit.init_weights()
    for layer in vit.layers:
        nn.init.normal_(layer.attn.gamma1.weight)
        nn.init.normal_(layer.ffn.gamma2.weight)
    return vit


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_registers_stand_behind_cls_without_positions(with_cls_token):
    vit = with_registers(with_cls_token=with_cls_token, out_type='raw')
    imgs = images(2, 32)
    patches = vit.patch_embed(imgs)[0] + vit.pos_embed[:, -16:]
    cls = [(vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1)] if with_cls_token else []
    x = torch.cat([*cls, vit.register_tokens.expand(2, -1, -1), patches], dim=1)
    assert vit.num_extra_tokens == len(cls) + 3
    for block in vit.layers:
        qkv = block.attn.qkv(block.ln1(x)).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = x + block.attn.gamma1.weight * block.attn.proj(out)
        x = x + block.ffn.gamma2.weight * block.ffn.layers(block.ln2(x))
    torch.testing.assert_close(vit(imgs)[0], vit.ln1(x))


def test_outputs_leave_registers_out():
    imgs = images(2, 32)
    tokens = with_registers(out_type='raw')(imgs)[0]
    assert tokens.shape == (2, 1 + 3 + 16, 24)
    assert torch.equal(with_registers(out_type='cls_token')(imgs)[0], tokens[:, 0])
    maps = with_registers(out_type='featmap')(imgs)[0]
    assert torch.equal(maps.flatten(2).transpose(1, 2), tokens[:, 4:])


def test_the_masked_pass_hands_on_no_registers_but_sees_them():
    vit, imgs, noise = with_registers(mask_ratio=0.5), images(2, 32), torch.rand(2, 16)
    features = vit.encode_masked(imgs, noise)
    assert {tokens.shape for tokens in (features.stem, *features.taps)} == {(2, 9, 24)}
    features.taps[0].square().sum().backward()
    assert vit.register_tokens.grad.norm() > 0
    bare = small_vit(mask_ratio=0.5, layer_scale_init_value=0.5)
    state = {n: x for n, x in vit.state_dict().items() if n != 'register_tokens'}
    bare.load_state_dict(state)
    other = bare.encode_masked(imgs, noise)
    torch.testing.assert_close(other.stem, features.stem)
    assert not torch.allclose(other.taps[0], features.taps[0])


def test_registers_are_of_the_stem():
    assert with_registers().get_layer_depth('backbone.register_tokens', 'backbone.') == (0, 6)
    assert not with_registers(frozen_stages=1).register_tokens.requires_grad
    assert with_registers().register_tokens.requires_grad


@pytest.mark.parametrize('given', [-1, 1.0, None])
def test_a_wrong_number_of_registers(given):
    with pytest.raises(ValueError, match='num_registers must be 0 or a number of tokens'):
        small_vit(num_registers=given)


@pytest.mark.parametrize(
    ('file', 'model', 'words'),
    [
        ({'num_registers': 2}, {}, "has 'register_tokens', which this encoder"),
        ({}, {'num_registers': 2}, "lacks 'register_tokens', which this encoder"),
        ({'num_registers': 2}, {'num_registers': 4}, r"'register_tokens' is \(1, 2, 24\) there"),
        ({'layer_scale_init_value': 1.0}, {}, r"has 'layers.0.attn.gamma1.weight' and 7 more"),
        ({'layer_scale_init_value': 1.0}, {}, r'that differ: layer_scale_init_value$'),
        ({'pre_norm': True}, {'num_registers': 2}, r'that differ: num_registers and pre_norm$'),
        ({'pre_norm': True, 'patch_cfg': {'bias': True}}, {}, r"has 'pre_norm.weight' and 1 more"),
    ],
)
def test_parts_that_the_other_lacks_are_refused(file, model, words):
    with pytest.raises(ValueError, match=words):
        small_vit(**model).load_state_dict(small_vit(**file).state_dict())


# --- positions of rectangles ----------------------------------------------------------------------


def test_a_stored_grid_tells_positions_of_a_rectangle():
    wide, square = small_vit(img_size=(16, 128)), small_vit()
    with torch.no_grad():
        wide.pos_embed.normal_()
    assert wide.pos_embed.shape == (1, 1 + 2 * 16, 24)
    taller = small_vit(img_size=(32, 64))  # 4 x 8 = 32 patches, too
    state = wide.state_dict()
    for vit, grid in ((square, (4, 4)), (taller, (4, 8))):
        vit.stored_grid = (2, 16)
        vit.load_state_dict(dict(state))
        expected = resize_pos_embed(wide.pos_embed, (2, 16), grid, vit.interpolate_mode, 1)
        assert torch.equal(vit.pos_embed, expected)
        assert vit.stored_grid is None
    with pytest.raises(ValueError, match='resized is from a square grid alone'):
        square.load_state_dict(dict(state))
    wide.load_state_dict(dict(state))
    assert torch.equal(wide.pos_embed, state['pos_embed'])


# --- the masked pass ------------------------------------------------------------------------------


def test_masked_features_of_the_unmasked_patches():
    """With one patch hidden, the others still see everything else: compare to the plain blocks."""
    vit = small_vit(mask_ratio=1 / 16)
    vit.init_weights()
    imgs, noise = images(2, 32), torch.rand(2, 16)
    hidden = noise.argmax(dim=1)
    features = vit.encode_masked(imgs, noise)
    assert features.grid == (4, 4)
    assert len(features.taps) == 2
    assert features.mask.argmax(dim=1).tolist() == hidden.tolist()
    assert features.mask.sum() == 2

    for b in range(2):
        patches = vit.patch_embed(imgs[b : b + 1])[0] + vit.pos_embed[:, 1:]
        x = torch.cat(
            [vit.cls_token + vit.pos_embed[:, :1], patches[:, noise[b].argsort()[:-1]]], 1
        )
        torch.testing.assert_close(features.stem[b : b + 1], x)
        for i, layer in enumerate(vit.layers):
            x = layer(x)
            if i == 1:
                torch.testing.assert_close(features.taps[0][b : b + 1], x)
        torch.testing.assert_close(features.taps[1][b : b + 1], vit.ln1(x))


def test_noise_is_drawn_anew_and_follows_the_seed():
    vit, imgs = small_vit(), images(2, 32)
    torch.manual_seed(3)
    first, second = vit.encode_masked(imgs), vit.encode_masked(imgs)
    torch.manual_seed(3)
    again = vit.encode_masked(imgs)
    assert torch.equal(first.ids_restore, again.ids_restore)
    assert not torch.equal(first.ids_restore, second.ids_restore)
    assert not torch.equal(first.ids_restore[0], first.ids_restore[1])
    assert first.mask.sum(dim=1).tolist() == [12, 12]


@pytest.mark.parametrize('size', [(48, 32), (32, 48), (64, 64), (16, 24)])
def test_images_of_another_size(size):
    """Positions follow: the same as a model of that size with this model's weights."""
    vit = small_vit()
    vit.init_weights()
    grid = (size[0] // 8, size[1] // 8)
    other = small_vit(img_size=size)
    assert torch.equal(other.pos_embed, sincos_positions(24, grid))
    other.load_state_dict(vit.state_dict())  # mmpretrain's hook resizes the positions
    resized = resize_pos_embed(vit.pos_embed, (4, 4), grid, 'bicubic', 1)
    assert torch.equal(other.pos_embed, resized)

    imgs, noise = images(2, *size), torch.rand(2, grid[0] * grid[1])
    found, expected = vit.encode_masked(imgs, noise), other.encode_masked(imgs, noise)
    assert found.grid == grid
    assert torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(found.stem, expected.stem)
    torch.testing.assert_close(found.taps[-1], expected.taps[-1])
    torch.testing.assert_close(vit(imgs)[0], other(imgs)[0])


# --- initialisation -------------------------------------------------------------------------------


def assert_xavier(matrix: torch.Tensor) -> None:
    """Uniform in +-sqrt(6 / (fan in + fan out)) of a big matrix."""
    bound = (6 / sum(matrix.shape)) ** 0.5
    assert 0.99 * bound < matrix.abs().max() <= bound
    torch.testing.assert_close(matrix.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
    assert matrix.mean().abs() < 0.1 * bound


def test_initialisation():
    torch.manual_seed(0)
    vit = MIRLViT('test', img_size=64)
    with torch.no_grad():
        vit.pos_embed.zero_()
    vit.init_weights()
    linears = [m for m in vit.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in vit.modules() if isinstance(m, nn.LayerNorm)]
    assert (len(linears), len(norms)) == (4 * 12, 2 * 12 + 1)
    for linear in linears:
        assert_xavier(linear.weight)
        assert not linear.bias.any()
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
        assert norm.eps == 1e-6
    assert_xavier(vit.patch_embed.projection.weight.flatten(1))
    assert not vit.patch_embed.projection.bias.any()
    assert 0.01 < vit.cls_token.std() < 0.03
    assert torch.equal(vit.pos_embed, sincos_positions(48, (4, 4)))


@pytest.fixture
def pretrained(tmp_path) -> tuple[dict, str]:
    """Weights of no initialisation, and a checkpoint with them."""
    state = {name: torch.full_like(value, 0.5) for name, value in small_mirl().state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'pretrained.pth')
    return state, str(tmp_path / 'pretrained.pth')


@pytest.mark.parametrize('in_list', [False, True])
def test_pretrained_weights_are_kept(pretrained, in_list):
    state, path = pretrained
    init_cfg = {'type': 'Pretrained', 'checkpoint': path, 'prefix': 'backbone.'}
    vit = small_vit(init_cfg=[init_cfg] if in_list else init_cfg)
    vit.init_weights()
    for name, value in vit.state_dict().items():
        assert torch.equal(value, state[f'backbone.{name}']), name


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'arch': 'b49'}, ["'b49'", ', '.join(ARCHS)]),
        ({'arch': without(DICT_ARCH, 'num_heads')}, ['num_heads', 'embed_dims', 'num_layers']),
        ({'arch': {**DICT_ARCH, 'num_heads': 5}}, ['embed_dims=24', 'num_heads=5']),
        ({'num_segments': 3}, ['num_segments=3', 'depth of 4', '[1, 2, 4]']),
        ({'num_segments': 6}, ['num_segments=6', 'divide the depth', '[1, 2, 4]']),
        ({'num_segments': 0}, ['num_segments=0', '[1, 2, 4]']),
        ({'num_segments': -2}, ['num_segments=-2', '[1, 2, 4]']),
        ({'num_segments': None}, ['num_segments=6', 'depth of 4', '[1, 2, 4]']),
        ({'mask_ratio': 1.0}, ['mask_ratio=1.0', 'keeps 0 of 16', '0 < mask_ratio < 1 - 1/16']),
        ({'mask_ratio': 0}, ['mask_ratio=0', 'keeps 16 of 16', 'mask at least 1']),
        ({'mask_ratio': -0.75}, ['mask_ratio=-0.75', '0 < mask_ratio']),
        ({'img_size': 36}, ['36x36', 'patch_size=8', 'multiple']),
        ({'img_size': (32, 36)}, ['32x36', 'patch_size=8']),
        ({'img_size': 4}, ['4x4', 'patch_size=8', 'at least one patch']),
    ],
    ids=str,
)
def test_bad_construction(change, words):
    with pytest.raises(ValueError) as error:
        small_vit(**change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ('size', 'noise', 'words'),
    [
        ((36, 32), None, ['36x32', 'patch_size=8', 'multiple']),
        ((32, 4), None, ['32x4', 'patch_size=8', 'at least one patch']),
        ((32, 32), (2, 15), ['(2, 15)', '2 images of 4x4 patches', '(2, 16)']),
        ((32, 32), (1, 16), ['(1, 16)', '(2, 16)']),
        ((32, 32), (2, 16, 1), ['(2, 16, 1)', '(2, 16)']),
        ((48, 32), (2, 16), ['(2, 16)', '6x4 patches', '(2, 24)']),
        ((8, 16), None, ['mask_ratio=0.75', 'keeps 0 of 2 patches']),
    ],
    ids=str,
)
def test_bad_call(size, noise, words):
    with pytest.raises(ValueError) as error:
        small_vit().encode_masked(torch.zeros(2, 3, *size), noise and torch.zeros(noise))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    'change', [{'with_cls_token': False, 'out_type': 'raw'}, {'final_norm': False}], ids=str
)
def test_masked_encoding_needs_cls_and_norm(change):
    vit = small_vit(**change)
    assert vit(images(1, 32))[0].isfinite().all()
    with pytest.raises(ValueError, match='with_cls_token=True and final_norm=True'):
        vit.encode_masked(images(1, 32))


def classifier() -> ImageClassifier:
    init_default_scope('mmpretrain')
    sizes = {'arch': DICT_ARCH, 'img_size': 32, 'patch_size': 8, 'num_segments': 2}
    return ImageClassifier(backbone={'type': 'MIRLViT', **sizes})


MODELS = {'pre-training': small_mirl, 'classifier': classifier}


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize(
    ('other', 'words'),
    [
        ({'depth': 6}, ["it has 'backbone.layers.4.ln1.weight'", '24 wide, 4 deep', 'lacks']),
        ({'depth': 2}, ["it lacks 'backbone.layers.2.ln1.weight'", '24 wide, 4 deep', 'has']),
        ({'width': 48}, ["'backbone.cls_token' is (1, 1, 48) there and (1, 1, 24)"]),
        ({'patch': 16}, ["'backbone.patch_embed.projection.weight' is (24, 3, 16, 16) there"]),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_arch_is_refused(tmp_path, model, other, words):
    path = str(tmp_path / 'other.pth')
    torch.save({'state_dict': small_mirl(**other).state_dict()}, path)
    before = MODELS[model]()
    with pytest.raises(ValueError, match='of another arch') as error:
        load_checkpoint(before, path, strict=False)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('model', MODELS)
def test_a_checkpoint_with_foreign_names_is_refused(tmp_path, model):
    path = str(tmp_path / 'foreign.pth')
    torch.save({'state_dict': {'blocks.0.norm1.weight': torch.ones(24)}}, path)
    with pytest.raises(ValueError, match=r'holds no weight of this encoder \(24 wide, 4 deep\)'):
        load_checkpoint(MODELS[model](), path, strict=False)


@pytest.mark.parametrize('model', MODELS)
def test_a_checkpoint_of_the_same_arch_is_accepted(tmp_path, model):
    path = str(tmp_path / 'same.pth')
    trained = small_mirl(img_size=(64, 64))  # which changes positions alone
    torch.save({'state_dict': without(trained.state_dict(), 'backbone.pos_embed')}, path)
    target = MODELS[model]()
    load_checkpoint(target, path, strict=False)
    for name, value in trained.backbone.layers.state_dict().items():
        assert torch.equal(target.backbone.layers.state_dict()[name], value), name
