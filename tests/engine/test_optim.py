"""The optimizer's groups as exact tables, for a classifier, a detector and a segmentor."""

import json
import logging
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import CosineAnnealingLR, LinearLR, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from mirl_mm.checkpoint import convert_official, read_checkpoint
from mirl_mm.engine.optim import merged
from mirl_mm.errors import UserError
from tests.models.downstream import classifier, mask_rcnn, upernet

DATA = Path(__file__).parents[1] / 'data'
CONFIG = Path(__file__).parents[2] / 'configs/mirl/vit-test_2e.py'
NO_DECAY = dict(decay_mult=0.0)


def wrapper(model, lr=1e-2, weight_decay=0.1, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5) | paramwise,
    )
    return build_optim_wrapper(model, ConfigDict(cfg))


def rows(model: nn.Module, optim_wrapper) -> dict[str, tuple[float, float]]:
    """{name: (lr, weight decay)}, each parameter in exactly one group."""
    names = {param: name for name, param in model.named_parameters()}
    groups = optim_wrapper.optimizer.param_groups
    found = [
        (names[param], (group['lr'], group['weight_decay']))
        for group in groups
        for param in group['params']
    ]
    assert len(dict(found)) == len(found)
    assert len({(group['lr'], group['weight_decay']) for group in groups}) == len(groups)
    return dict(found)


def encoder(rate: float, depth: int, lr: float, decays: dict[str, float]) -> dict[str, tuple]:
    """The rows of an encoder; decays: of matrices, biases, norms, cls, positions."""
    kinds = {
        'ln1.weight': 'norm',
        'ln1.bias': 'norm',
        'attn.qkv.weight': 'matrix',
        'attn.qkv.bias': 'bias',
        'attn.proj.weight': 'matrix',
        'attn.proj.bias': 'bias',
        'ln2.weight': 'norm',
        'ln2.bias': 'norm',
        'ffn.layers.0.0.weight': 'matrix',
        'ffn.layers.0.0.bias': 'bias',
        'ffn.layers.1.weight': 'matrix',
        'ffn.layers.1.bias': 'bias',
    }
    stem = {
        'cls_token': 'cls',
        'pos_embed': 'positions',
        'patch_embed.projection.weight': 'matrix',
        'patch_embed.projection.bias': 'bias',
    }
    table = {f'backbone.{name}': (0, kind) for name, kind in stem.items()}
    for i in range(depth):
        table |= {f'backbone.layers.{i}.{name}': (i + 1, kind) for name, kind in kinds.items()}
    return {
        name: (pytest.approx(lr * rate ** (depth + 1 - layer), rel=1e-12), decays[kind])
        for name, (layer, kind) in table.items()
    }


def parts(lr: float, **named: tuple[float, str]) -> dict[str, tuple[float, float]]:
    """Rows of what comes behind the blocks, at the full rate: by prefix, decay and names."""
    return {
        f'{prefix.replace("__", ".")}.{name}': (lr, decay)
        for prefix, by_decay in named.items()
        for decay, names in by_decay.items()
        for name in names.split()
    }


# --- exact tables ---------------------------------------------------------------------------------


def test_a_classifier_has_the_groups_of_the_official_code():
    golden = json.loads((DATA / 'lrd_groups.json').read_text())
    official = read_checkpoint(DATA / 'vit_ft_tiny.pd')[0]
    ours = dict(zip(official, convert_official(official), strict=True))
    expected = {
        frozenset(ours[name] for name in group['names']): (
            pytest.approx(6e-3 * group['lr_scale'], rel=1e-12),
            group['weight_decay'],
        )
        for group in golden
    }
    assert len(expected) == 16

    arch = dict(embed_dims=48, num_layers=6, num_heads=4, feedforward_channels=192)
    model = classifier(arch=arch)
    optim = wrapper(
        model,
        lr=6e-3,
        weight_decay=0.05,
        layer_decay_rate=0.88,
        flat_decay_mult=0.0,
        custom_keys={'.pos_embed': NO_DECAY, '.cls_token': NO_DECAY},
    )
    names = {param: name for name, param in model.named_parameters()}
    assert {
        frozenset(names[param] for param in group['params']): (group['lr'], group['weight_decay'])
        for group in optim.optimizer.param_groups
    } == expected


def test_the_table_of_a_mask_rcnn():
    """ViTDet's exemptions: norms and positions; biases and cls are decayed."""
    model = mask_rcnn(window_size=2)
    with DefaultScope.overwrite_default_scope('mmdet'):
        optim = wrapper(model, norm_decay_mult=0.0, custom_keys={'pos_embed': NO_DECAY})
    decays = dict(matrix=0.1, bias=0.1, norm=0.0, cls=0.1, positions=0.0)
    expected = encoder(0.5, 12, 1e-2, decays) | parts(
        1e-2,
        backbone={0.0: 'ln1.weight ln1.bias'},
        neck__levels={
            0.1: '0.0.weight 0.0.bias 0.3.weight 0.3.bias 0.4.weight 0.6.weight '
            '1.0.weight 1.0.bias 1.1.weight 1.3.weight 2.0.weight 2.2.weight 3.1.weight 3.3.weight',
            0.0: '0.1.weight 0.1.bias 0.5.weight 0.5.bias 0.7.weight 0.7.bias 1.2.weight 1.2.bias '
            '1.4.weight 1.4.bias 2.1.weight 2.1.bias 2.3.weight 2.3.bias 3.2.weight 3.2.bias '
            '3.4.weight 3.4.bias',
        },
        rpn_head={
            0.1: 'rpn_conv.weight rpn_conv.bias rpn_cls.weight rpn_cls.bias rpn_reg.weight '
            'rpn_reg.bias'
        },
        roi_head__bbox_head={
            0.1: 'fc_cls.weight fc_cls.bias fc_reg.weight fc_reg.bias shared_fcs.0.weight '
            'shared_fcs.0.bias shared_fcs.1.weight shared_fcs.1.bias'
        },
        roi_head__mask_head={
            0.1: 'convs.0.conv.weight convs.0.conv.bias upsample.weight upsample.bias '
            'conv_logits.weight conv_logits.bias'
        },
    )
    assert rows(model, optim) == expected
    assert len(optim.optimizer.param_groups) == 2 * 14


def test_the_table_of_a_upernet():
    """MAE's exemptions: norms, biases, positions and cls."""
    model = upernet(final_norm=False)
    with DefaultScope.overwrite_default_scope('mmseg'):
        optim = wrapper(
            model,
            layer_decay_rate=0.65,
            norm_decay_mult=0.0,
            bias_decay_mult=0.0,
            custom_keys={'.pos_embed': NO_DECAY, '.cls_token': NO_DECAY},
        )
    convs = ['psp_modules.0.1', 'psp_modules.1.1', 'bottleneck', 'fpn_bottleneck']
    convs += [f'{kind}_convs.{i}' for kind in ('lateral', 'fpn') for i in range(3)]
    decays = dict(matrix=0.1, bias=0.0, norm=0.0, cls=0.0, positions=0.0)
    expected = encoder(0.65, 12, 1e-2, decays) | parts(
        1e-2,
        neck__levels={
            0.1: '0.0.weight 0.3.weight 1.0.weight',
            0.0: '0.0.bias 0.1.weight 0.1.bias 0.3.bias 1.0.bias',
        },
        decode_head={
            0.1: ' '.join(['conv_seg.weight', *(f'{conv}.conv.weight' for conv in convs)]),
            0.0: ' '.join(
                ['conv_seg.bias', *(f'{c}.bn.{kind}' for c in convs for kind in ('weight', 'bias'))]
            ),
        },
        auxiliary_head={
            0.1: 'conv_seg.weight convs.0.conv.weight',
            0.0: 'conv_seg.bias convs.0.bn.weight convs.0.bn.bias',
        },
    )
    assert rows(model, optim) == expected


def test_frozen_parameters_stay_out():
    model = upernet(frozen_stages=3)
    names = rows(model, wrapper(model, custom_keys={'.pos_embed': NO_DECAY}))
    frozen = (
        'backbone.cls',
        'backbone.pos',
        'backbone.patch',
        *(f'backbone.layers.{i}.' for i in range(3)),
    )
    assert names.keys() == {n for n, _ in model.named_parameters() if not n.startswith(frozen)}
    assert names['backbone.layers.3.attn.qkv.weight'][0] == pytest.approx(1e-2 * 0.5**9)


def test_the_longest_custom_key_counts_and_comes_before_the_kinds():
    model = classifier()
    keys = {
        'head': dict(decay_mult=2.0),
        'head.fc.bias': dict(decay_mult=3.0),
        '.ln1.bias': dict(decay_mult=4.0),
    }
    table = rows(model, wrapper(model, bias_decay_mult=0.0, norm_decay_mult=5.0, custom_keys=keys))
    decay = {name: wd / 0.1 for name, (_, wd) in table.items()}
    assert decay['head.fc.weight'] == pytest.approx(2)
    assert decay['head.fc.bias'] == pytest.approx(3)
    assert decay['backbone.layers.0.ln1.bias'] == pytest.approx(4)
    assert decay['backbone.layers.0.ln2.bias'] == pytest.approx(5)
    assert decay['backbone.layers.0.attn.qkv.bias'] == 0
    assert decay['backbone.cls_token'] == pytest.approx(1)


# --- in MMEngine ----------------------------------------------------------------------------------


def test_under_a_distributed_wrapper():
    model = classifier()
    plain = rows(model, wrapper(model, norm_decay_mult=0.0))
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert rows(model, wrapper(wrapped, norm_decay_mult=0.0)) == plain
    finally:
        torch.distributed.destroy_process_group()


def test_schedules_keep_the_ratios_between_layers():
    """Warm-up, then a cosine down to a floor that is a share of each group's own rate."""
    model = classifier()
    optim = wrapper(model, norm_decay_mult=0.0)
    base = [group['lr'] for group in optim.optimizer.param_groups]
    schedulers = [
        LinearLR(optim, start_factor=0.1, by_epoch=False, begin=0, end=5),
        CosineAnnealingLR(optim, eta_min_ratio=1e-2, by_epoch=False, begin=5, end=26, T_max=20),
    ]
    seen = []
    for _ in range(26):
        seen.append([group['lr'] for group in optim.optimizer.param_groups])
        optim.step()
        for scheduler in schedulers:
            scheduler.step()
    assert seen[0] == pytest.approx([0.1 * lr for lr in base])
    assert seen[5] == pytest.approx(base)
    assert seen[15] == pytest.approx([(0.5 + 0.5e-2) * lr for lr in base])
    assert seen[25] == pytest.approx([1e-2 * lr for lr in base])


def test_a_step_moves_each_layer_by_its_own_rate():
    model = classifier()
    optim = wrapper(model, weight_decay=0.0)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    sum(param.sum() for param in model.parameters()).backward()
    optim.step()
    for name, layer in [
        ('cls_token', 0),
        ('layers.0.ln1.bias', 1),
        ('layers.11.ln1.bias', 12),
        ('ln2.bias', 13),
    ]:
        moved = before[f'backbone.{name}'] - model.get_parameter(f'backbone.{name}')
        torch.testing.assert_close(
            moved, torch.full_like(moved, 1e-2 * 0.5 ** (13 - layer)), rtol=1e-4, atol=1e-8
        )


def test_the_table_is_logged_once_at_info():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        arch = dict(embed_dims=8, num_layers=2, num_heads=1, feedforward_channels=8)
        model = classifier(arch=arch, frozen_stages=1, num_segments=2)
        model.head.fc = nn.Linear(8, 7)
        wrapper(model, lr=1e-3, weight_decay=0.05, norm_decay_mult=0.0)
    finally:
        logger.removeHandler(handler)
    (record,) = (each for each in records if 'layer_decay_rate' in str(each.msg))
    assert record.levelno == logging.INFO
    assert record.msg.splitlines() == [
        'layer_decay_rate=0.5',
        'layer         lr weight decay   parameters',
        '    2  5.000e-04            0           32',
        '    2  5.000e-04         0.05          432',
        '    3  1.000e-03            0           16',
        '    3  1.000e-03         0.05           63',
        'frozen, in no group: 6,760 parameters',
    ]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(num_layers=12, decay_rate=0.9), r"has \['decay_rate', 'num_layers'\]; known are"),
        (dict(layer_decay_rate=1.1), 'above 0 and at most 1, got 1.1'),
        (dict(layer_decay_rate=0), 'above 0 and at most 1, got 0'),
        (dict(custom_keys={'head': dict(lr_mult=2)}), r"custom_keys\['head'\] .* decay_mult alone"),
        (dict(custom_keys={'.pos_embd': NO_DECAY}), r"\['.pos_embd'\] apply to no parameter"),
        (dict(weight_decay=None), 'needs lr and weight_decay.* weight_decay=None'),
        (
            dict(weight_decay=0, norm_decay_mult=0),
            'norm_decay_mult.* no effect with weight_decay=0',
        ),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        wrapper(classifier(), **settings)


def test_a_rate_must_be_given():
    cfg = dict(
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='LayerDecayOptimWrapperConstructor',
    )
    with pytest.raises(
        ValueError, match='layer_decay_rate must be above 0 and at most 1, got None'
    ):
        build_optim_wrapper(classifier(), cfg)


def test_a_model_without_layers():
    with pytest.raises(ValueError, match='Linear, NoneType, has no get_layer_depth'):
        wrapper(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (lambda layer: (layer, 20), r'18 blocks, but no parameter is in layers \[14, 15, 16'),
        (lambda layer: (layer, 8), 'of 0 to 7, .* tells backbone.layers.7.ln1.weight: 8'),
        (lambda layer: (layer, 15), 'outside the backbone is 14; it tells head.fc.weight: 13'),
        (lambda layer: (13, 14), r'12 blocks, but no parameter is in layers \[1, 2, 3'),
        (lambda layer: (layer or 13, 14), 'are 0 .* tells backbone.cls_token: 13'),
        (lambda layer: (layer, 14 + (layer == 0)), r'different numbers of layers: \[14, 15\]'),
    ],
)
def test_a_backbone_that_tells_wrong_layers(wrong, message, monkeypatch):
    model = classifier()
    right = model.backbone.get_layer_depth
    monkeypatch.setattr(
        model.backbone,
        'get_layer_depth',
        lambda name, prefix='': wrong(right(name, prefix)[0]),
    )
    with pytest.raises(ValueError, match=message):
        wrapper(model)


# --- merged groups --------------------------------------------------------------------------------


def pretraining_groups(constructor: str) -> tuple[torch.nn.Module, list[dict]]:
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    cfg.optim_wrapper.constructor = constructor
    return model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups


def test_two_groups_follow_the_official_rule():
    """Biases and 1-D parameters are not decayed; cls and mask tokens are; frozen ones stay out."""
    model, groups = pretraining_groups('MergedOptimWrapperConstructor')
    names = {param: name for name, param in model.named_parameters()}
    decayed = {g['weight_decay']: {names[p] for p in g['params']} for g in groups}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(decayed) == {0.05, 0.0}
    assert decayed[0.0] == {
        name for name, p in trained.items() if p.ndim == 1 or name.endswith('.bias')
    }
    assert decayed[0.05] == set(trained) - decayed[0.0]
    assert {'backbone.cls_token', 'neck.decoders.0.mask_token'} <= decayed[0.05]
    assert 'backbone.layers.0.ln1.weight' in decayed[0.0]


def test_the_settings_are_those_of_mmengine():
    settings = []
    for constructor in ('DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor'):
        model, groups = pretraining_groups(constructor)
        names = {param: name for name, param in model.named_parameters()}
        trained = {
            names[p]: (g['lr'], g['weight_decay'], g['betas'])
            for g in groups
            for p in g['params']
            if p.requires_grad
        }
        settings.append(trained)
    assert settings[0] == settings[1]


def test_a_part_has_groups_of_its_own_with_the_same_decay():
    model, plain = pretraining_groups('MergedOptimWrapperConstructor')
    names = {param: name for name, param in model.named_parameters()}
    decays = {names[p]: g['weight_decay'] for g in plain for p in g['params']}
    cfg = Config.fromfile(CONFIG).optim_wrapper
    cfg.paramwise_cfg.part = 'backbone'
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    kinds = [(g['part'], g['weight_decay']) for g in groups]
    assert sorted(kinds, key=str) == sorted(product(['backbone', None], [0.05, 0.0]), key=str)
    found = {names[p]: (g['part'], g['weight_decay']) for g in groups for p in g['params']}
    assert found == {
        name: ('backbone' if name.startswith('backbone.') else None, decay)
        for name, decay in decays.items()
    }
    cfg.paramwise_cfg.part = 'encoder'
    with pytest.raises(UserError, match=r"part is 'encoder'; MIRL has .*backbone, neck, head"):
        build_optim_wrapper(model, cfg)


def test_merging_keeps_the_order():
    groups = [dict(params=[i], lr=lr) for i, lr in enumerate([1.0, 2.0, 1.0, 3.0])]
    assert merged(groups) == [
        dict(params=[0, 2], lr=1.0),
        dict(params=[1], lr=2.0),
        dict(params=[3], lr=3.0),
    ]


def test_merged_groups_take_no_unknown_factor():
    cfg = dict(
        constructor='MergedOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
        paramwise_cfg=dict(norm_decay_mul=0.0),
    )
    with pytest.raises(UserError) as error:
        build_optim_wrapper(nn.Linear(2, 2), cfg)
    assert str(error.value).startswith(
        "paramwise_cfg has ['norm_decay_mul'] (did you mean 'norm_decay_mult'?); known are norm_d"
    )


def test_a_rate_in_words_is_none():
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr='fast', weight_decay=0.1),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with pytest.raises(UserError, match='needs lr and weight_decay, numbers; got lr=fast, weight'):
        build_optim_wrapper(nn.Linear(2, 2), cfg)
