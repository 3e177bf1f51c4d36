from collections import Counter

import pytest
import torch
from torch import nn

from mirl_mm.models.segments import num_segments, parameter_segments, unwrapped
from tests.models.build import mirl
from tests.models.downstream import build, classifier, mask_rcnn, upernet


def labels(model: nn.Module) -> set[str]:
    return set(parameter_segments(model).values())


ENCODER = {'stem', *(f'segment_{i}' for i in range(6))}


def test_mirl():
    model = mirl()
    found = parameter_segments(model)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert labels(model) == ENCODER | {f'decoder_{i}' for i in range(6)} | {'neck'}
    for name, label in {
        'backbone.patch_embed.projection.weight': 'stem',
        'backbone.cls_token': 'stem',
        'backbone.pos_embed': 'stem',
        'backbone.layers.1.attn.qkv.weight': 'segment_0',
        'backbone.layers.2.attn.qkv.weight': 'segment_1',
        'backbone.layers.11.ffn.layers.1.bias': 'segment_5',
        'backbone.ln1.weight': 'segment_5',
        'neck.stem_embed.weight': 'neck',
        'neck.norms.3.weight': 'neck',
        'neck.decoders.4.mask_token': 'decoder_4',
        'neck.decoders.4.blocks.0.cross_attn.kv.weight': 'decoder_4',
    }.items():
        assert found[name] == label, name
    blocks = Counter(label for name, label in found.items() if '.layers.' in name[:18])
    assert set(blocks.values()) == {2 * 12}  # two blocks of 12 parameters each


@pytest.mark.parametrize('segments', [2, 4])
def test_the_models_own_number_of_segments(segments):
    model = mirl(segments=segments)
    assert labels(model) == (
        {'stem', 'neck'}
        | {f'segment_{i}' for i in range(segments)}
        | {f'decoder_{i}' for i in range(segments)}
    )


def test_mae_and_its_number_of_segments():
    arch = dict(embed_dims=48, num_layers=12, num_heads=4, feedforward_channels=192)
    model = build(
        'mmpretrain',
        dict(
            type='MAE',
            backbone=dict(type='MAEViT', arch=arch, img_size=64),
            neck=dict(type='MAEPretrainDecoder', num_patches=16, embed_dim=48),
            head=dict(
                type='MAEPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')
            ),
        ),
    )
    assert labels(model) == ENCODER | {'neck'}
    fake = nn.Module()
    fake.layers, fake.embed_dims = nn.ModuleList(nn.Identity() for _ in range(24)), 768
    assert num_segments(fake) == 4  # b24
    fake.embed_dims = 100
    assert num_segments(fake) == 6


def test_models_that_were_transferred_to():
    assert labels(classifier()) == ENCODER | {'head'}
    assert labels(mask_rcnn()) == ENCODER | {'neck', 'rpn_head', 'roi_head'}
    assert labels(upernet()) == ENCODER | {'neck', 'decode_head', 'auxiliary_head'}


def test_another_backbone_is_one_part():
    model = nn.Module()
    model.backbone, model.head = nn.Linear(2, 2), nn.Linear(2, 2)
    assert labels(model) == {'backbone', 'head'}


def test_wrappers_around_the_model():
    plain = mirl()
    wanted = parameter_segments(plain)
    wrapped = nn.DataParallel(plain)
    assert unwrapped(wrapped) is plain
    assert parameter_segments(wrapped) == {f'module.{n}': label for n, label in wanted.items()}
    compiled = torch.compile(plain)
    assert parameter_segments(compiled) == {f'_orig_mod.{n}': label for n, label in wanted.items()}
