"""Settings for speed and memory must change neither the losses nor the gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from mirl_mm.models import MIRL, MIRLDenseViT, MIRLViT
from mirl_mm.models.block import TensorDropPath, attend
from tests.models.build import images, small_mirl

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)
AOT = dict(backend='aot_eager')  # traced and shared as by the default, without C++


def step(model: MIRL) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    loss = model.loss(images(2, 32))['loss']
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def with_settings(**settings) -> MIRL:
    """Two blocks in a decoder, so that both kinds are there."""
    return small_mirl(decoder_depth=2, backbone=dict(settings), neck=dict(settings))


def test_checkpointing_in_pretraining_changes_nothing():
    torch.testing.assert_close(step(with_settings(with_cp=True)), step(with_settings()), **exact())


def exact() -> dict:
    return dict(rtol=0, atol=0)


@pytest.mark.parametrize('where', ['backbone', 'neck'])
def test_checkpointing_keeps_less(where):
    def kept(**settings) -> int:
        model, sizes = small_mirl(decoder_depth=2, **{where: settings}), {}
        imgs = images(8, 32)  # are there anyway

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.loss(imgs)
        sizes.pop(imgs.untyped_storage().data_ptr())
        return sum(sizes.values())

    assert kept(with_cp=True) < 0.75 * kept()


def test_a_classifier_is_checkpointed_too():
    plain, checked = (MIRLViT(ARCH, 32, 8, num_segments=2, with_cp=cp) for cp in (False, True))
    checked.load_state_dict(plain.state_dict())
    grads = []
    for vit in plain, checked:
        vit(images(2, 32))[0].square().sum().backward()
        grads.append({name: p.grad for name, p in vit.named_parameters()})
    torch.testing.assert_close(*grads, **exact())


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
def test_attention_in_float32(half, monkeypatch):
    """What arrives at the kernel, and that its rounding is then float32's."""
    arrived, kernel = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        'scaled_dot_product_attention',
        lambda q, *rest, **more: (arrived.append(q.dtype), kernel(q, *rest, **more))[1],
    )
    q, k, v = torch.randn(3, 2, 9, 24).to(half)
    with torch.autocast('cpu', half):
        found = attend(q, k, v, 2, fp32=True)
    expected = attend(q.float(), k.float(), v.float(), 2).to(half)
    assert arrived == [torch.float32] * 2
    assert found.dtype == half
    assert torch.equal(found, expected)


@pytest.mark.parametrize('setting', [False, True])
def test_every_attention_of_a_model_follows_the_setting(setting, monkeypatch):
    arrived, kernel = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        'scaled_dot_product_attention',
        lambda q, *rest, **more: (arrived.append(q.dtype), kernel(q, *rest, **more))[1],
    )
    dense = MIRLDenseViT(ARCH, 32, 8, window_size=2, global_indices=[3], attn_fp32=setting)
    with torch.autocast('cpu', torch.bfloat16):
        with_settings(attn_fp32=setting).loss(images(2, 32))
        dense(images(1, 32))
    assert len(arrived) == 4 + 2 * 2 * 2 + 4
    assert set(arrived) == {torch.float32 if setting else torch.bfloat16}


@pytest.fixture
def compiling():
    """Compiled code and counts of this test alone."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.parametrize(
    'half',
    [pytest.param(False, id='float32'), pytest.param(True, id='bfloat16', marks=pytest.mark.long)],
)
def test_compiled_blocks_give_the_same_and_are_compiled_once(half, compiling):
    plain, compiled = with_settings(), with_settings(compile_blocks=AOT)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    compiled.load_state_dict(plain.state_dict())
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        compiled.backbone.encode_masked(images(2, 32))
        assert graphs() == 1  # for 4 blocks
        found = step(compiled)
        known = graphs()
        assert known == 1 + 2  # a decoder's last block, which skips visible tokens, and the others
        tolerance = dict(rtol=0.1, atol=2e-3) if half else dict(rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found, step(plain), **tolerance)
        other = copy.deepcopy(compiled)  # as averaging hooks do
        torch.testing.assert_close(step(other), found, rtol=1e-5, atol=1e-8)
    assert graphs() == known
    assert not torch._dynamo.utils.counters['graph_break']


def test_decoders_share_a_graph_whatever_they_look_back_at(compiling):
    model = small_mirl(segments=4, neck=dict(compile_blocks=AOT))
    for _ in range(2):
        model.loss(images(2, 32))['loss'].backward()
    assert graphs() == 1
    assert not torch._dynamo.utils.counters['graph_break']


@pytest.mark.parametrize('dense', [False, True], ids=['encoder', 'windows'])
def test_blocks_of_all_drop_path_rates_share_a_graph(dense, compiling):
    kind = MIRLDenseViT if dense else MIRLViT
    settings = dict(window_size=3, global_indices=[3]) if dense else dict(num_segments=2)
    torch.manual_seed(0)
    model = kind(ARCH, 32, 8, drop_path_rate=0.4, compile_blocks=AOT, **settings).train()
    model.init_weights()
    assert [block.attn.out_drop.drop_prob for block in model.layers] == pytest.approx(
        [0, 0.4 / 3, 0.8 / 3, 0.4]
    )
    assert not any('rate' in name for name in model.state_dict())
    other = copy.deepcopy(model)
    for block in other.layers:
        block.settings = block.settings._replace(compile_options=None)

    def run(vit) -> list[Tensor]:
        torch.manual_seed(1)  # aot_eager draws as eager code does
        vit.zero_grad()
        (out,) = vit(images(4, 32))
        out.square().mean().backward()
        return [out, *(p.grad for p in vit.parameters() if p.grad is not None)]

    torch.testing.assert_close(run(model), run(other), rtol=1e-4, atol=1e-7)
    assert graphs() == 1 + dense  # windowed blocks, and global ones
    assert not torch._dynamo.utils.counters['graph_break']


def test_a_rate_in_a_tensor_drops_as_mmcvs():
    stock = DropPath(0.25)
    ours = copy.deepcopy(stock)
    ours.__class__ = TensorDropPath
    ours.register_buffer('rate', torch.tensor(0.25), persistent=False)
    for x in (torch.randn(64, 3, 2), torch.randn(64, 3, 2).bfloat16()):
        torch.manual_seed(0)
        wanted = stock(x)
        torch.manual_seed(0)
        torch.testing.assert_close(ours(x), wanted, rtol=2**-8, atol=0)
        assert 0 < (wanted == 0).all(dim=(1, 2)).sum() < 64
    assert ours.eval()(x) is x


def graphs() -> int:
    return torch._dynamo.utils.counters['stats']['unique_graphs']


def test_other_settings_of_compilation_are_refused():
    with pytest.raises(ValueError, match=r"True, False or a dict .* got 'max-autotune'"):
        MIRLViT(ARCH, 32, 8, num_segments=2, compile_blocks='max-autotune')
