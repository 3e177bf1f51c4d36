# The demo: MIRL on a small but deep ViT (24 blocks of 64), about 5 minutes on two CPU cores.
# Command: make demo, or make demo DATA=/my/pictures
# Effective batch: 32 on one process. Width, learning rate and length are our choice for a CPU.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=4, feedforward_channels=256),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(
        embed_dim=64,
        num_segments=6,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        patch_size=8,
    ),
    head=dict(patch_size=8),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1.6e-2 * 32 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    ),
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=60, end=700, T_max=640),
]
train_dataloader = dict(sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True))
train_cfg = dict(type='ExactIterLoop', max_iters=700, val_interval=175)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=350, max_keep_ckpts=1),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)

randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=32, enable=False)
custom_hooks = [
    dict(type='RunSummaryHook', base_lr=1.6e-2),
    dict(type='ExportEncoderHook'),
]
