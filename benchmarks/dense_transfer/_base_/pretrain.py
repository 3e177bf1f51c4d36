# MIRL on the small encoder of these runs, in crops of 128 px: 12 blocks of 96, patches of 16 px,
# 4 segments as in b12, heads of 32 as in the 384-wide archs; 700 iterations of 64. Rate and
# length are our choice for two CPU cores; what to read and how to crop is the inheriting config's.
_base_ = [
    '../../../configs/_base_/default_runtime.py',
    '../../../configs/_base_/mirl.py',
    '../../../configs/_base_/pretrain_cpu.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=96, num_layers=12, num_heads=3, feedforward_channels=384),
        num_segments=4,
        img_size=128,
    ),
    neck=dict(decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=2),
)

optim_wrapper = dict(optimizer=dict(lr=8e-3 * 64 / 256))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=70),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=70, end=700, T_max=630),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(type='ExactIterLoop', max_iters=700, val_interval=350)
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='UnlabelledImages', pipeline=test_pipeline),
)
val_evaluator = dict(type='ReconstructionError')
val_cfg = dict()
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=700, max_keep_ckpts=1),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)

auto_scale_lr = dict(base_lr=8e-3 * 64 / 256, base_batch_size=64, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
