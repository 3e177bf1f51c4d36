# What all runs of grid A share: Tiny-ImageNet-100 at 64 px, patches of 8, without labels. The rate
# is the one that a search at depth 12 chose for both methods (README.md); the grid sets
# depth, seed and length, and with it the warm-up: 40 of 300 epochs, as in the official recipe.
_base_ = [
    '../../../configs/_base_/default_runtime.py',
    '../../../configs/_base_/pretrain_cpu.py',
]
data_root = 'data/tiny_imagenet_100/'

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages',
        data_root=data_root,
        data_prefix='train',
        pipeline=[
            dict(
                type='LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.2, 1.0), flip_prob=0.5
            ),
            dict(type='PackInputs'),
        ],
    ),
)

optim_wrapper = dict(optimizer=dict(lr=2e-3))
max_epochs = 10
_warm_up = max_epochs * 40 / 300
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=_warm_up,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=_warm_up, end=max_epochs,
         T_max=max_epochs - _warm_up, convert_to_iter_based=True),
]  # fmt: skip
train_cfg = dict(type='ExactEpochLoop', max_epochs=max_epochs)

default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1, max_keep_ckpts=2), panel=None
)
