# A linear probe: frozen encoder, cls token, batch norm without parameters, one linear layer. A
# config adds the arch, its depth as frozen_stages, the widths and the checkpoint.
# Source: mmpretrain's and MAE's linear probe (github.com/facebookresearch/mae, main_linprobe.py).
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='MIRLViT',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='ClsBatchNormNeck'),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01),
    ),
)
