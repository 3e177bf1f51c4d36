"""Operations of a forward pass and of what follows from it, against torch's counter."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mirl_mm.measure.flops import Flops, flops, flops_per_image
from mirl_mm.models.archs import ARCHS
from tests.models.build import mirl
from tests.models.downstream import build, classifier

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


def loss_of(model: nn.Module, batch: int):
    imgs = torch.randn(batch, 3, 64, 64)
    samples = [DataSample().set_gt_label(i) for i in range(batch)]
    return lambda: model.train()(imgs, samples, mode='loss')['loss']


def counted(model: nn.Module, batch: int) -> Flops:
    """As torch counts them, watching every operation of both passes."""
    with sdpa_kernel(SDPBackend.MATH):  # the only one that the counter knows on a CPU
        with FlopCounterMode(display=False) as forward:
            loss = loss_of(model, batch)()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    first = forward.get_total_flops()
    return Flops(first, first + backward.get_total_flops())


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
    assert flops(loss_of(model, 2)) == counted(model, 2)
    with sdpa_kernel(SDPBackend.MATH):
        assert flops(loss_of(model, 2)) == counted(model, 2)


def test_a_config_without_data_or_weights():
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    model = build('mmpretrain', cfg)
    found = counted(model, 4)
    assert flops_per_image(cfg, 4) == Flops(found.forward / 4, found.training / 4)


def test_what_a_batch_shares_is_spread_over_it():
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    share = 3 * 2 * 6 * 16 * 3 * 32**2  # passes, multiply and add, decoders, patches, q k v
    alone = flops_per_image(cfg, 1).training
    assert flops_per_image(cfg, 4).training == alone - share * 3 / 4


@pytest.mark.parametrize('setting', ['with_cp', 'compile_blocks'])
def test_settings_do_not_change_the_models_work(setting):
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    wanted = flops_per_image(cfg, 2)
    cfg.backbone[setting] = cfg.neck[setting] = True
    assert flops_per_image(cfg, 2) == wanted


@pytest.mark.parametrize('arch, billions', [('s54', 20.49), ('b48', 69.91), ('b12', 17.56)])
def test_multiply_adds_of_the_published_sizes(arch, billions):
    """The encoder alone at 224 pixels, unmasked; the figures count the attention products too."""
    head = dict(type='LinearClsHead', num_classes=2, in_channels=ARCHS[arch]['embed_dims'])
    cfg = dict(type='ImageClassifier', backbone=dict(type='MIRLViT', arch=arch), head=head)
    assert flops_per_image(cfg, 1).forward / 2e9 == pytest.approx(billions, abs=0.01)
