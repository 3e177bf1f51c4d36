"""The closed form against torch's counter, which watches every operation."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mirl_mm.analysis.flops import forward_flops_per_image, training_flops_per_image, work_of
from mirl_mm.models.vit import ARCHS
from tests.models.build import mirl
from tests.models.downstream import build, classifier, upernet

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=160)


def mae() -> nn.Module:
    return build(
        'mmpretrain',
        dict(
            type='MAE',
            backbone=dict(type='MAEViT', arch=ARCH, img_size=64, mask_ratio=0.75),
            neck=dict(
                type='MAEPretrainDecoder',
                num_patches=16,
                embed_dim=48,
                decoder_embed_dim=32,
                decoder_depth=2,
                decoder_num_heads=4,
            ),
            head=dict(
                type='MAEPretrainHead',
                norm_pix=True,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'),
            ),
        ),
    )


def counted(model: nn.Module, batch: int = 2) -> tuple[int, int]:
    """Operations of the forward pass and of both, per image, as torch counts them."""
    imgs = torch.randn(batch, 3, 64, 64)
    samples = [DataSample().set_gt_label(i) for i in range(batch)]
    with sdpa_kernel(SDPBackend.MATH):  # the only one that the counter knows on a CPU
        with FlopCounterMode(display=False) as forward:
            loss = model.train()(imgs, samples, mode='loss')['loss']
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    flops = forward.get_total_flops(), backward.get_total_flops()
    return flops[0] // batch, sum(flops) // batch


def frozen_classifier() -> nn.Module:
    """A linear probe: nothing but the head is trained."""
    model = classifier()
    model.backbone.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    'make',
    [
        mirl,
        lambda: mirl(decoder_depth=2, segments=2, mask_ratio=0.6),
        mae,
        classifier,
        frozen_classifier,
    ],
    ids=['mirl', 'mirl-two-blocks', 'mae', 'classifier', 'probe'],
)
def test_as_torch_counts(make):
    model = make()
    found = forward_flops_per_image(model, batch=2), training_flops_per_image(model, batch=2)
    assert found == counted(model, batch=2)


def test_what_a_batch_shares_is_left_out_by_default():
    model = mirl()
    share = 3 * 2 * 6 * 16 * 3 * 32**2  # passes, multiply and add, decoders, patches, q k v
    alone = training_flops_per_image(model, batch=1)
    assert training_flops_per_image(model) == alone - share
    assert training_flops_per_image(model, batch=4) == alone - share * 3 // 4


def test_from_a_config_and_in_a_wrapper():
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py'))
    init_default_scope('mmpretrain')
    wanted = training_flops_per_image(MODELS.build(cfg.model))
    assert training_flops_per_image(cfg.model) == wanted
    assert training_flops_per_image(nn.DataParallel(MODELS.build(cfg.model))) == wanted


@pytest.mark.parametrize('arch, billions', [('s54', 20.49), ('b48', 69.91), ('b12', 17.56)])
def test_multiply_adds_of_the_published_sizes(arch, billions):
    """The encoder alone at 224 pixels, unmasked; the figures count the attention products too."""
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=ARCHS[arch]['embed_dims'])
    cfg = dict(type='ImageClassifier', backbone=dict(type='MIRLViT', arch=arch), head=head)
    encoder = sum(work.macs for part, work in work_of(cfg).items() if part != 'head')
    assert encoder / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_model_without_a_closed_form():
    with pytest.raises(ValueError, match='EncoderDecoder on MIRLDenseViT; there is one for MIRL'):
        training_flops_per_image(upernet())
