# mmpretrain's MAE at 32 px: one epoch of 8 images takes seconds on a CPU. The tests set data_root.
custom_imports = dict(imports=['mirl_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

model = dict(
    type='MAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='MAEViT',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=8,
        embed_dim=16,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        mlp_ratio=2.0,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=8,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
)

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=True,  # without workers torch refuses this; the tools drop it
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='UnlabelledImages',
        data_root='',
        pipeline=[
            dict(type='LoadAnyImage'),
            dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), backend='pillow'),
            dict(type='PackInputs'),
        ],
    ),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
auto_scale_lr = dict(base_lr=0.0016, base_batch_size=16)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    accumulative_counts=2,
    optimizer=dict(type='AdamW', lr=0.0016, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=1, convert_to_iter_based=True)
]
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=1)
)
custom_hooks = [dict(type='RunSummaryHook')]
env_cfg = dict(dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0)
