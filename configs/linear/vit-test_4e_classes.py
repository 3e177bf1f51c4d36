# Linear probe of the 12-block test arch over 4 epochs on class folders at 64 px: seconds on a CPU.
# Command: python tools/train.py configs/linear/vit-test_4e_classes.py
# Needs: data/classes/{train,val}/<class> with 4 classes, and what configs/mirl/vit-test_2e.py left.
# Effective batch: 8 on one process.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/linear.py',
    '../_base_/classes_64px.py',
]

model = dict(
    data_preprocessor=dict(num_classes=4),
    backbone=dict(
        arch='test',
        img_size=64,
        frozen_stages=12,
        init_cfg=dict(checkpoint='work_dirs/vit-test_2e/encoder.pth'),
    ),
    neck=dict(input_features=48),
    head=dict(num_classes=4, in_channels=48),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=0.1 * 8 / 256, weight_decay=0.0, momentum=0.9),
)
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=0,
        end=4,
        T_max=4,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=4, val_interval=1)

default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'),
)
randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=0.1 * 8 / 256, base_batch_size=8, enable=False)
