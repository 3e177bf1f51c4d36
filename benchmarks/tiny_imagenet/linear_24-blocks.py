# Linear probe on Tiny-ImageNet-100, 3 epochs of 3,500 images: about a minute on one CPU core.
# Command: python tools/train.py benchmarks/tiny_imagenet/linear_24-blocks.py --work-dir DIR \
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
#   (untrained: model.backbone.init_cfg=None)
# Effective batch: 50 on one process. Rate for a short run; the rest is configs/linear's.
_base_ = ['../../configs/_base_/linear.py', './_base_/transfer.py']

model = dict(
    data_preprocessor=dict(num_classes=100),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
        frozen_stages=24,
        init_cfg=dict(checkpoint='work_dirs/mirl_24-blocks/encoder.pth'),
    ),
    neck=dict(input_features=64),
    head=dict(num_classes=100, in_channels=64),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=50.0 * 50 / 256, weight_decay=0.0, momentum=0.9),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=1,
        end=3,
        T_max=2,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_lr=50.0 * 50 / 256)
