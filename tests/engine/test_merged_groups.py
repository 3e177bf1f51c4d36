from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mirl_mm  # noqa: F401
from mirl_mm.engine.merged_groups import merged

CONFIG = Path(__file__).parents[2] / 'configs/mirl/vit-test_2e.py'


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


def test_merging_keeps_the_order():
    groups = [dict(params=[i], lr=lr) for i, lr in enumerate([1.0, 2.0, 1.0, 3.0])]
    assert merged(groups) == [
        dict(params=[0, 2], lr=1.0),
        dict(params=[1], lr=2.0),
        dict(params=[3], lr=3.0),
    ]
