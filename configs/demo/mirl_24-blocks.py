# The demo: MIRL on a small but deep ViT (24 blocks of 64), minutes on two CPU cores.
# Command: make demo, or make demo DATA=/my/pictures
# Effective batch: 16 on one process. Width, learning rate and length are our choice for a CPU: what
# counts in so short a run is the number of steps, so the batch is small.
# Images have the 128 px and patches the 16 px of the detection and segmentation behind it.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_cpu.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=4, feedforward_channels=256),
        img_size=128,
    ),
    neck=dict(decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=4),
)

optim_wrapper = dict(optimizer=dict(lr=4.8e-2 * 16 / 256))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=100, end=2000, T_max=1900),
]
train_pipeline = [
    dict(type='LoadAnyImage'),
    dict(
        type='RandomResizedCrop',
        scale=128,
        crop_ratio_range=(0.35, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=128, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(type='ExactIterLoop', max_iters=2000, val_interval=500)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)

auto_scale_lr = dict(base_lr=4.8e-2 * 16 / 256, base_batch_size=16, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
