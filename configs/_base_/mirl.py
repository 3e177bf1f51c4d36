# The parts of MIRL; a config adds the arch, from which neck and head take their sizes.
model = dict(
    type='MIRL',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(type='MIRLViT', img_size=224, patch_size=16, mask_ratio=0.75),
    neck=dict(type='MIRLNeck'),
    head=dict(type='MIRLHead'),
)
