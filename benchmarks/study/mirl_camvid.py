# MIRL on CamVid's 367 training images (480x360), without labels, in crops of 192 px: 300 epochs.
# Command: python tools/train.py benchmarks/study/mirl_camvid.py
# Effective batch: 64 on one process. 12 blocks of 96 as in dense_transfer; the grid sets the seed,
# and with the length (300 x 367 / 64 iterations) the warm-up: 40 of 300, as in the official recipe.
_base_ = ['../dense_transfer/_base_/pretrain.py']

model = dict(backbone=dict(img_size=192))
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='UnlabelledImages',
        data_root='data/camvid/',
        data_prefix='images/training',
        pipeline=[
            dict(
                type='LoadRandomResizedCrop',
                scale=192,
                crop_ratio_range=(0.1, 0.8),
                flip_prob=0.5,
            ),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
max_iters = 1720
_warm_up = round(max_iters * 40 / 300)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=_warm_up),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=False,
        begin=_warm_up,
        end=max_iters,
        T_max=max_iters - _warm_up,
    ),
]
train_cfg = dict(max_iters=max_iters)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=200, max_keep_ckpts=2), panel=None
)
