"""MIRLDenseViT against stock mmpretrain, against plain loops, and against itself."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from mirl_mm.checkpoint import backbone_state
from mirl_mm.models import MIRLDenseViT
from mirl_mm.models.block import Windows
from tests.models.build import mirl

DEPTH = 4
ARCH = dict(embed_dims=24, num_layers=DEPTH, num_heads=2, feedforward_channels=48)
ALL = tuple(range(DEPTH))
EXACT = dict(rtol=0, atol=1e-12)  # float64


def dense(arch=ARCH, img_size=32, patch_size=8, seed=0, **settings) -> MIRLDenseViT:
    """A model in float64 with all parameters random, so that no zero or one hides a mistake."""
    model = MIRLDenseViT(arch, img_size, patch_size, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.2 * torch.randn(param.shape, generator=generator, dtype=param.dtype))
    return model


def images(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def stem(model: MIRLDenseViT, imgs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens that enter block 0, and the grid."""
    patches, grid = model.patch_embed(imgs)
    cls = model.cls_token.expand(len(patches), -1, -1)
    tokens = torch.cat([cls, patches], dim=1) + model.positions(grid)
    if model.num_registers:
        registers = model.register_tokens.expand(len(patches), -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
    return tokens, grid


def window_loop(model: MIRLDenseViT, imgs: Tensor, size: int, blocks: range) -> list[Tensor]:
    """The outputs of blocks that all attend in windows, one window after the other."""
    tokens, (h, w) = stem(model, imgs)
    extra = 1 + model.num_registers
    cls, patches = tokens[:, :extra], tokens[:, extra:].unflatten(1, (h, w))
    corners = [(y, x) for y in range(0, h, size) for x in range(0, w, size)]
    copies = {corner: cls for corner in corners}
    outs = []
    for i in blocks:
        patches = patches.clone()
        for y, x in corners:
            window = patches[:, y : y + size, x : x + size]
            out = model.layers[i](torch.cat([copies[y, x], window.flatten(1, 2)], dim=1))
            copies[y, x] = out[:, :extra]
            patches[:, y : y + size, x : x + size] = out[:, extra:].reshape(window.shape)
        share = {(y, x): min(size, h - y) * min(size, w - x) / (h * w) for y, x in corners}
        mean = sum(copies[corner] * share[corner] for corner in corners)
        outs.append(torch.cat([mean, patches.flatten(1, 2)], dim=1))
    return outs


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)


# --- the same features as the encoder -------------------------------------------------------------


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    """A pre-training checkpoint as MMEngine saves it, with decoders."""
    torch.manual_seed(0)
    model = mirl(backbone={'arch': 'test'})
    for param in model.parameters():
        param.data.normal_(std=0.1)
    path = tmp_path_factory.mktemp('work_dir') / 'epoch_1.pth'
    torch.save(dict(meta=dict(epoch=1), state_dict=model.state_dict()), path)
    return str(path)


@pytest.mark.parametrize(
    ('scope', 'final_norm'), [('mmpretrain', True), ('mmdet', True), ('mmseg', False)]
)
def test_features_of_a_checkpoint_are_those_of_stock_mmpretrain(checkpoint, scope, final_norm):
    taps = [2, 5, 8, 11]
    init = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    same = dict(img_size=64, out_indices=taps, final_norm=final_norm)
    with DefaultScope.overwrite_default_scope(scope):
        ours = MODELS.build(dict(type='MIRLDenseViT', arch='test', init_cfg=init, **same))
        ours.init_weights()
    arch = dict(embed_dims=48, num_layers=12, num_heads=4, feedforward_channels=192)
    stock = VisionTransformer(arch, out_type='featmap', **same)
    saved = backbone_state(torch.load(checkpoint)['state_dict'])
    stock.load_state_dict(saved, strict=final_norm)
    ours.load_state_dict(saved, strict=True)  # a final norm that is not asked for is no surprise
    for height, width in [(64, 64), (100, 70), (17, 200)]:
        imgs = images(height, width).float()
        with torch.no_grad():
            maps = ours(imgs)
            torch.testing.assert_close(maps, stock(imgs), rtol=1e-5, atol=1e-5)
        assert [tuple(each.shape[2:]) for each in maps] == [(-(-height // 16), -(-width // 16))] * 4


def test_init_cfg_may_be_a_list(checkpoint):
    init = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    model = MIRLDenseViT('test', img_size=64, init_cfg=[init])
    model.init_weights()
    saved = backbone_state(torch.load(checkpoint)['state_dict'])
    torch.testing.assert_close(dict(model.state_dict()), saved, rtol=0, atol=0)


def test_positions_of_a_checkpoint_fit_another_img_size(checkpoint):
    init = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    model = MIRLDenseViT('test', img_size=(96, 128), init_cfg=init)
    model.init_weights()
    saved = backbone_state(torch.load(checkpoint)['state_dict'])['pos_embed']
    torch.testing.assert_close(model.pos_embed.data, resize_pos_embed(saved, (4, 4), (6, 8)))


# --- any size -------------------------------------------------------------------------------------


@pytest.mark.parametrize('window', [0, 2])
@pytest.mark.parametrize('size', [(1, 1), (2, 2), (1, 40), (37, 23), (64, 88)])
def test_any_size_is_the_padded_image(size, window):
    model = dense(window_size=window, out_indices=ALL)
    imgs = images(*size)
    padded = F.pad(imgs, (0, -size[1] % 8, 0, -size[0] % 8))
    maps = model(imgs)
    assert maps[0].shape[2:] == (padded.shape[2] // 8, padded.shape[3] // 8)
    assert all(each.isfinite().all() for each in maps)
    torch.testing.assert_close(maps, model(padded), rtol=0, atol=0)


@pytest.mark.parametrize('grid', [(1, 1), (3, 9), (4, 5), (16, 16)])
def test_positions_are_resized_as_in_mmpretrain(grid):
    model = dense(img_size=(32, 48))
    expected = resize_pos_embed(model.pos_embed.float(), (4, 6), grid)
    torch.testing.assert_close(model.positions(grid).float(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), model.pos_embed)[0]
    got = torch.autograd.grad((model.positions(grid) * weights).sum(), model.pos_embed)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_resized_positions_follow_the_weights():
    model, imgs = dense(), images(40, 56)
    with torch.inference_mode():
        model(imgs)
    model.pos_embed.data.mul_(2)  # as MMEngine's EMAHook swaps weights: no version is counted
    fresh = dense()
    with torch.no_grad():
        fresh.pos_embed.copy_(model.pos_embed)
        torch.testing.assert_close(model(imgs), fresh(imgs), rtol=0, atol=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.positions((5, 7)).detach()
    model(imgs)[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.positions((5, 7)), before)


def test_positions_keep_their_precision_under_autocast():
    model = dense().float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = model.positions((5, 7))
    torch.testing.assert_close(inside, model.positions((5, 7)), rtol=0, atol=0)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(32, 32), (40, 24), (20, 48)])
def test_a_window_over_the_whole_map_is_global_attention(size):
    imgs = images(*size)
    window = max(-(-side // 8) for side in size)
    for global_indices in (None, [], [1, 3]):
        windowed = dense(out_indices=ALL, window_size=window, global_indices=global_indices)
        torch.testing.assert_close(windowed(imgs), dense(out_indices=ALL)(imgs), rtol=0, atol=0)


def test_one_window_in_window_layout_is_the_stock_block():
    model = dense()
    x, grid = stem(model, images(32, 24))
    windows = Windows(grid, 4, extra=1)
    assert windows.shapes == [(1, 12)]
    inside = windows.enter(x)
    for block in model.layers:
        x, inside = block(x), block(inside, windows)
    torch.testing.assert_close(windows.leave(inside), x, **EXACT)


@pytest.mark.parametrize(
    ('size', 'window'), [((32, 32), 2), ((40, 56), 3), ((72, 24), 4), ((8, 40), 1), ((40, 16), 2)]
)
@pytest.mark.parametrize('registers', [dict(), dict(num_registers=2, layer_scale_init_value=1.0)])
def test_windowed_blocks_equal_a_loop_over_windows(size, window, registers):
    """Edges that are not full, cls copies per window, and their mean before the global block."""
    settings = dict(window_size=window, global_indices=[3], final_norm=False, **registers)
    model = dense(out_indices=ALL, **settings)
    imgs = images(*size)
    _, grid = stem(model, imgs)
    outs = window_loop(model, imgs, window, range(3))
    outs.append(model.layers[3](outs[-1]))
    expected = tuple(as_map(out, grid) for out in outs)
    torch.testing.assert_close(model(imgs), expected, **EXACT)


def test_without_a_cls_token_windows_work_too():
    settings = dict(with_cls_token=False, out_indices=(0,), window_size=2, global_indices=[])
    model = dense(**settings)
    imgs = images(40, 24)
    patches = (model.patch_embed(imgs)[0] + model.positions((5, 3))).unflatten(1, (5, 3))
    window = model.layers[0](patches[:, 2:4, :2].flatten(1, 2))
    got = model(imgs)[0][:, :, 2:4, :2]
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), window, **EXACT)


def test_what_is_outside_a_window_does_not_reach_inside():
    taps = dict(out_indices=(0, 1, 2), window_size=2, global_indices=[2])
    model, imgs = dense(**taps), images(40, 56)
    patches = imgs.unflatten(2, (5, 8)).unflatten(4, (7, 8)).clone()  # [2, 3, 5, 8, 7, 8]
    inside = torch.zeros(5, 7, dtype=torch.bool)
    inside[2:4, 4:6] = True
    order = torch.arange(35).view(5, 7)
    order[~inside] = order[~inside].flip(0)
    shuffled = patches.transpose(3, 4).flatten(2, 3)[:, :, order.flatten()]
    shuffled = shuffled.unflatten(2, (5, 7)).transpose(3, 4).flatten(4, 5).flatten(2, 3)

    for i, (plain, other) in enumerate(zip(model(imgs), model(shuffled), strict=True)):
        same = (plain - other).abs().amax(dim=(0, 1)) < 1e-12
        assert torch.equal(same, inside if i < 2 else torch.zeros_like(inside))


def test_consecutive_windowed_blocks_are_cut_once(monkeypatch):
    calls = []
    for name in ('enter', 'leave'):
        method = getattr(Windows, name)
        monkeypatch.setattr(
            Windows, name, lambda self, x, m=method, n=name: (calls.append(n), m(self, x))[1]
        )
    dense(dict(ARCH, num_layers=12), window_size=2)(images(48, 48))
    assert calls == ['enter', 'leave'] * 4


@pytest.mark.parametrize(
    ('depth', 'blocks'),
    [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (48, [11, 23, 35, 47]), (54, [13, 26, 40, 53])],
)
def test_the_last_block_of_each_quarter_is_global(depth, blocks):
    arch = dict(embed_dims=4, num_layers=depth, num_heads=1, feedforward_channels=4)
    assert MIRLDenseViT(arch, window_size=7).global_indices == blocks


# --- training -------------------------------------------------------------------------------------


def gradients(model: MIRLDenseViT, imgs: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)
    maps = model(imgs)
    sum((each * each.detach().cos()).sum() for each in maps).backward()
    return list(maps), {name: param.grad for name, param in model.named_parameters()}


@pytest.mark.parametrize('window', [0, 2])
def test_every_parameter_gets_a_gradient(window):
    _, grads = gradients(dense(window_size=window), images(40, 24))
    assert len(grads) == 4 + 12 * DEPTH + 2
    assert all(grad is not None and grad.abs().max() > 1e-6 for grad in grads.values())


def test_blocks_after_the_last_tap_are_frozen():
    model = dense(out_indices=(0, 2))
    _, grads = gradients(model, images(16, 16))
    idle = {name for name, param in model.named_parameters() if not param.requires_grad}
    assert idle == {name for name in grads if name.startswith(('layers.3.', 'ln1.'))}
    assert {name for name, grad in grads.items() if grad is None} == idle


@pytest.mark.parametrize('window', [0, 2])
def test_checkpointing_changes_neither_output_nor_gradients(window):
    settings = dict(window_size=window, drop_path_rate=0.5, drop_rate=0.1, out_indices=ALL)
    imgs = images(40, 24)
    plain, checked = (gradients(dense(with_cp=cp, **settings), imgs) for cp in (False, True))
    torch.testing.assert_close(plain, checked, rtol=0, atol=0)


def test_checkpointing_keeps_less():
    def kept(model: MIRLDenseViT) -> int:
        sizes = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            maps = model(images(128, 128))
        assert maps[0].requires_grad
        return sum(sizes.values()) - sum(param.nbytes for param in model.parameters())

    arch = dict(ARCH, num_layers=12)
    assert kept(dense(arch, window_size=4, with_cp=True)) < kept(dense(arch, window_size=4)) / 4


def test_a_path_is_dropped_for_a_whole_image():
    model = dense(drop_path_rate=0.5, window_size=3)
    block = model.layers[-1]
    torch.nn.init.zeros_(block.ffn.layers[1].weight)
    torch.nn.init.zeros_(block.ffn.layers[1].bias)
    x, grid = stem(model, images(40, 56, batch=32))
    windows = Windows(grid, 3, extra=1)
    torch.manual_seed(0)
    inside = windows.enter(x)
    change = (block(inside, windows) - inside).abs().amax(dim=2)
    assert (change > 0).any(1).equal((change > 0).all(1))
    assert 8 < (change > 0).any(1).sum() < 24


def test_frozen_stages_stay_frozen_in_training():
    model = dense(frozen_stages=2, drop_path_rate=0.5, drop_rate=0.5, out_indices=(1, 3))
    assert model.train() is model
    assert [layer.training for layer in model.layers] == [False, False, True, True]
    assert not model.drop_after_pos.training
    assert not any(module.training for module in model.layers[1].modules())
    imgs = images(32, 40)
    torch.testing.assert_close(model(imgs)[0], copy.deepcopy(model).eval()(imgs)[0], **EXACT)
    _, grads = gradients(model, imgs)
    frozen = ('cls_token', 'pos_embed', 'patch_embed.', 'layers.0.', 'layers.1.')
    assert all((grad is None) == name.startswith(frozen) for name, grad in grads.items())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(arch='vit-b'), 'unknown arch'),
        (dict(window_size=-1), r'window_size must be 0 or a number of patches, got -1'),
        (dict(window_size=2.5), r'window_size must be 0 or a number of patches, got 2.5'),
        (dict(window_size=2, global_indices=[1, 4]), r'global_indices=\(1, 4\).* 0 to 3'),
        (dict(window_size=2, global_indices=[1, 1]), 'without repeats'),
        (dict(global_indices=[1]), 'no effect with window_size=0'),
        (dict(out_indices=4), r'out_indices=\(4,\).* 0 to 3'),
        (dict(out_indices=(3, 1)), 'ascending'),
        (dict(out_indices=()), 'at least one'),
        (dict(frozen_stages=5), 'frozen_stages must be -1 to 4'),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        dense(**settings)


def test_a_window_larger_than_the_map_in_training():
    model = dense(window_size=6)
    with pytest.raises(ValueError, match=r'window_size=6 .*larger than the map, 4x5 patches'):
        model(images(32, 40))
    model(images(8, 8))  # an image smaller than img_size may pass
    model.eval()(images(32, 40))


@pytest.mark.parametrize(
    ('settings', 'prefix', 'message'),
    [
        (dict(), None, 'holds no weight of this encoder'),
        (dict(), 'encoder.', "encoder. is not in the pretrained model.*prefix='backbone.'"),
        (dict(arch='s12'), 'backbone.', r"'cls_token' is \(1, 1, 48\) there and \(1, 1, 384\)"),
        (dict(num_layers=14), 'backbone.', "it lacks 'layers.12"),
        (dict(num_layers=10), 'backbone.', "has 'layers.10"),
    ],
)
def test_a_checkpoint_that_does_not_fit(checkpoint, settings, prefix, message):
    arch = settings.get('arch') or dict(
        dict(embed_dims=48, num_layers=12, num_heads=4, feedforward_channels=192), **settings
    )
    init = dict(type='Pretrained', checkpoint=checkpoint, prefix=prefix)
    with pytest.raises(ValueError, match=message):
        MIRLDenseViT(arch, img_size=64, init_cfg=init).init_weights()
