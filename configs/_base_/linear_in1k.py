# The linear probe's recipe on ImageNet-1k: 90 epochs, per-iteration schedule. Source: mmpretrain's
# configs/mae and MAE's main_linprobe.py (LARS, rate 0.1 for a batch of 256); the official release
# of MIRL names the same numbers in a script that it removed, without a result.
#  * Warm-up starts at 1e-4 of the rate, as in mmpretrain.
_base_ = ['./default_runtime.py', './classes_in1k.py']

train_pipeline = [
    dict(type='LoadAnyImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=2048, num_workers=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=256)
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(type='LARS', lr=0.1 * 16384 / 256, weight_decay=0.0, momentum=0.9),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=10,
        end=90,
        T_max=80,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=90, val_interval=1)

randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=0.1 * 16384 / 256, base_batch_size=16384, enable=False)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'),
)
