# An image classifier for fine-tuning; a config adds the arch, the head's width and the checkpoint.
# As the official FINETUNE.md (github.com/russellllaputa/MIRL): the patches' average and a norm of
# its own instead of the encoder's final norm, a head that starts at (almost) zero, mixup or cutmix
# on every batch, trainable positions.
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
        out_type='avg_featmap',
        final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
