# Fine-tuning of mirl_24-blocks_64px.py's encoder on some thousand own pictures in class folders.
# Command: mirl train small/finetune_24-blocks_64px --data /my/classes
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Needs: /my/classes/{train,val}/<class>, and work_dirs/mirl_24-blocks_64px/encoder.pth.
# Effective batch: 64 on one process. 96,000 images seen, however many there are. Rate and layer
# decay are those of benchmarks/tiny_imagenet; the length is our choice, not measured.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/finetune.py',
    '../_base_/classes_64px.py',
]

model = dict(
    data_preprocessor=dict(num_classes=2),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
        init_cfg=dict(checkpoint='work_dirs/mirl_24-blocks_64px/encoder.pth'),
    ),
    head=dict(num_classes=2, in_channels=64),
    train_cfg=dict(_delete_=True),  # no mixes of pictures: they are for hundreds of epochs
)

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
)
val_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-2 * 64 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    ),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9,
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=150),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-3,
        by_epoch=False,
        begin=150,
        end=1500,
        T_max=1350,
    ),
]
train_cfg = dict(type='ExactIterLoop', max_iters=1500, val_interval=250)

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        by_epoch=False, interval=250, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'
    ),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=1e-2 * 64 / 256, base_batch_size=64, enable=False)
