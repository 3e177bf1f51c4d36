# Fine-tuning on Tiny-ImageNet-100, 3 epochs of 3,500 images: about 2.5 minutes on one CPU core.
# Command: python tools/train.py benchmarks/tiny_imagenet/finetune_24-blocks.py --work-dir DIR \
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
#   (from scratch: model.backbone.init_cfg=None)
# Effective batch: 50 on one process. Light augmentation and a small layer decay, for a short run.
_base_ = ['../../configs/_base_/finetune.py', './_base_/transfer.py']

model = dict(
    data_preprocessor=dict(num_classes=100),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
        init_cfg=dict(checkpoint='work_dirs/mirl_24-blocks/encoder.pth'),
    ),
    head=dict(num_classes=100, in_channels=64),
    train_cfg=dict(_delete_=True),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-2 * 50 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    ),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9,
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-3,
        by_epoch=True,
        begin=1,
        end=3,
        T_max=2,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_lr=1e-2 * 50 / 256)
custom_hooks = [
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=1, gamma=9),
    dict(type='RawWeightsHook'),
]
