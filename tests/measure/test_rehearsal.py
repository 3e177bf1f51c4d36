"""The estimate against tensors that a real step keeps, and against itself."""

import copy
from functools import cache

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mirl_mm.measure.rehearsal import StepMemory, probe, usable
from tests.models.build import small_mirl

ARCH = dict(embed_dims=96, num_layers=6, num_heads=4, feedforward_channels=384)
MODEL = dict(
    type='MIRL',
    backbone=dict(type='MIRLViT', arch=ARCH, img_size=64, patch_size=8, num_segments=2),
    neck=dict(
        type='MIRLNeck',
        embed_dim=96,
        num_segments=2,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
        patch_size=8,
    ),
    head=dict(type='MIRLHead', patch_size=8),
)


@cache
def estimated(dtype: torch.dtype) -> StepMemory:
    return probe(MODEL, dtype=dtype).memory()


def real_model(cfg) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg).train()


def saved_bytes(model: nn.Module, batch: int, dtype: torch.dtype) -> int:
    """What autograd keeps between the two passes of a real step, weights excluded."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = model.backbone.img_size[0]
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast('cpu', dtype, enabled=dtype != torch.float32),
    ):
        loss = model.loss(torch.randn(batch, 3, side, side), None)['loss']
    assert loss.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_an_images_share_is_what_a_real_step_keeps(dtype):
    model = real_model(MODEL)
    measured = (saved_bytes(model, 12, dtype) - saved_bytes(model, 4, dtype)) / 8
    pixels = 4 * 3 * 64 * 64  # the images are there, too
    estimate = estimated(dtype)
    assert measured > 1_000_000
    assert measured + pixels <= estimate.per_image < 1.2 * (measured + pixels)
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert estimate.parameters == 4 * count
    assert (estimate.gradients, estimate.optimizer) == (4 * trainable, 8 * trainable)
    casts = 2 * count if dtype == torch.bfloat16 else 0
    assert estimate.rest == pytest.approx(casts, abs=0.1 * 4 * count)


def test_checkpointing_takes_less():
    less = copy.deepcopy(MODEL)
    less['backbone']['with_cp'] = less['neck']['with_cp'] = True
    assert probe(less).memory().per_image < 0.45 * estimated(torch.bfloat16).per_image


def test_a_rehearsal_leaves_nothing_behind():
    probe(MODEL)
    model = small_mirl()
    assert model.loss(torch.randn(2, 3, 32, 32))['loss'].item() > 0
    assert type(model.backbone.pos_embed.data) is Tensor


def test_what_fits():
    memory = StepMemory(400, 300, 600, per_image=50.0, rest=200.0)
    assert memory.total(4) == 1700
    assert [memory.largest_batch(limit) for limit in (1000, 1500, 1549, 1550, 1700)] == [
        0, 0, 0, 1, 4,
    ]  # fmt: skip
    assert usable(0.5) == 0
    assert usable(81) == pytest.approx(72e9)
