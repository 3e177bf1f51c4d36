"""Settings for speed and memory must change neither the losses nor the gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mirl_mm.models import MIRL, MIRLDenseViT, MIRLViT
from mirl_mm.models.attention import attend
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

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.loss(images(8, 32))
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


def test_compiled_blocks_give_the_same_and_are_compiled_once():
    torch._dynamo.reset()
    plain, compiled = with_settings(), with_settings(compile_blocks=AOT)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    compiled.load_state_dict(plain.state_dict())
    before = graphs()
    compiled.backbone.encode_masked(images(2, 32))
    assert graphs() - before == 1  # for 4 blocks
    torch.testing.assert_close(step(compiled), step(plain), rtol=1e-4, atol=1e-7)
    # A decoder has a first and a last block, and torch compiles once more for any context's length.
    known = graphs()
    assert known - before <= 1 + 2 * 2
    found = step(compiled)
    other = copy.deepcopy(compiled)  # as averaging hooks do
    torch.testing.assert_close(step(other), found, rtol=1e-5, atol=1e-8)
    assert graphs() == known


def graphs() -> int:
    return torch._dynamo.utils.counters['stats']['unique_graphs']


def test_other_settings_of_compilation_are_refused():
    with pytest.raises(ValueError, match=r"True, False or a dict .* got 'max-autotune'"):
        MIRLViT(ARCH, 32, 8, num_segments=2, compile_blocks='max-autotune')
    with pytest.raises(ValueError, match=r'drop_path_rate=0.1 gives each its own; take one'):
        MIRLViT(ARCH, 32, 8, num_segments=2, compile_blocks=True, drop_path_rate=0.1)
