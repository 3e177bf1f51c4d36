# The demo: MIRL on 12 blocks of 64, minutes on two CPU cores.
# Command: make demo, or make demo DATA=/my/pictures
# Effective batch: 32 on one process. Sizes, rate and length are our choice for a CPU: in so short a
# run, more blocks do not pay. Scenes (128 px) are seen at 64 px, in patches of 8, by detection and
# segmentation too. A rate can be too high without the error saying so: docs/dense.md, on the demo.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_cpu.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        num_segments=4,
        img_size=64,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1),
)

optim_wrapper = dict(optimizer=dict(lr=2.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=100, end=3000, T_max=2900),
]
train_pipeline = [
    dict(type='LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.3, 1.0), flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=64, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix='images/unlabelled', pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(type='ExactIterLoop', max_iters=3000, val_interval=500)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)

auto_scale_lr = dict(base_lr=2.5e-3, base_batch_size=32, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
