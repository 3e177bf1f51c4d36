"""What importing the package does, and does not."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    RUNNERS,
    TRANSFORMS,
    DefaultScope,
)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_names_need_no_prefix_under_any_default_scope(scope):
    registered = {
        MODELS: ('MIRL', 'MIRLViT', 'MIRLNeck', 'MIRLHead', 'MIRLResidualLoss'),
        DATASETS: ('UnlabelledImages',),
        TRANSFORMS: ('LoadAnyImage',),
        METRICS: ('ReconstructionError',),
        HOOKS: ('RunSummaryHook', 'ProgressHook', 'HealthHook', 'PanelHook'),
        RUNNERS: ('MIRLRunner',),
    }
    with DefaultScope.overwrite_default_scope(scope):
        for registry, names in registered.items():
            for name in names:
                assert registry.get(name).__module__.startswith('mirl_mm.'), name
        neck = dict(type='MIRLNeck', embed_dim=48, decoder_embed_dim=32, decoder_num_heads=4)
        with torch.device('meta'):
            model = MODELS.build(
                Config(
                    dict(
                        type='MIRL',
                        backbone=dict(type='MIRLViT', arch='test', img_size=64),
                        neck=neck,
                        head=dict(type='MIRLHead'),
                    )
                )
            )
    assert type(model.data_preprocessor).__name__ == 'SelfSupDataPreprocessor'
    assert model.neck.num_segments == 6
