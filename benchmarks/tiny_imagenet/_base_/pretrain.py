# Pre-training on Tiny-ImageNet-100 at 64 px on a CPU: 5 epochs of 35,000 images, without labels;
# k-NN on labelled ones beside it. Length, batch and rate are our choice.
data_root = 'data/tiny_imagenet_100/'

train_pipeline = [
    dict(type='LoadAnyImage'),
    dict(
        type='RandomResizedCrop',
        scale=64,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
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
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=6e-3 * 32 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    ),
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [  # by iterations: 1,093 an epoch
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=400),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=400, end=5465, T_max=5065),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=5)

randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=32, enable=False)
custom_hooks = [
    dict(type='RunSummaryHook', base_lr=6e-3),
    dict(type='ExportEncoderHook'),
    dict(
        type='KNNHook',
        train=data_root + 'train',
        val=data_root + 'val',
        interval=1,
        at_start=True,
        ks=(10, 20),
        limit=20,
        num_workers=1,
    ),
]
