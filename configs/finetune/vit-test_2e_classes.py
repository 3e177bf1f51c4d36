# Fine-tuning of the 12-block test arch over 2 epochs on class folders at 64 px: seconds on a CPU.
# Command: python tools/train.py configs/finetune/vit-test_2e_classes.py
# Needs: data/classes/{train,val}/<class> with 4 classes, and what configs/mirl/vit-test_2e.py left.
#   Other data: --data DIR
# Effective batch: 8 x 2 accumulated = 16 on one process. The recipe is that of the large archs with
# a shorter schedule, so that every part of it runs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/finetune.py',
    '../_base_/classes_64px.py',
]

model = dict(
    data_preprocessor=dict(num_classes=4),
    backbone=dict(
        arch='test',
        img_size=64,
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-test_2e/encoder.pth'),
    ),
    head=dict(num_classes=4, in_channels=48),
)

optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=2,
    optimizer=dict(
        type='AdamW', lr=7.5e-4 * 16 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    ),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.6,
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / 6e-3,
        by_epoch=True,
        begin=1,
        end=2,
        T_max=1,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=2, val_interval=1)

default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'),
)
randomness = dict(seed=888, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=7.5e-4 * 16 / 256, base_batch_size=16, enable=False)
custom_hooks = [
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=2, gamma=9 * 2),
    dict(type='RawWeightsHook'),
]
