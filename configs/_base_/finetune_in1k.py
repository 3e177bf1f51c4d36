# The official fine-tuning recipe on ImageNet-1k: 100 epochs, per-iteration schedule. Source: the
# official FINETUNE.md and main_finetune.py (github.com/russellllaputa/MIRL). A config adds
# layer_decay_rate. Another accumulation k needs interval=k and gamma=9*k in EMAHook, which counts
# iterations.
#  * eta_min_ratio is 1e-6 / 6e-3: the floor is scaled per layer like the rate, as there.
#  * Warm-up starts at 1e-9 of the rate: MMEngine's LinearLR cannot start from 0.
#  * No weight decay on biases, norms, positions and cls token.
#  * bf16 here, fp16 with a loss scaler there.
_base_ = ['./default_runtime.py', './classes_in1k.py']

train_pipeline = [
    dict(type='LoadAnyImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(  # rand-m9-mstd0.5-inc1
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),  # BGR
    ),
    dict(  # pixel mode: noise with the mean and deviation of the data, BGR
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    type='AmpOptimWrapper',
    accumulative_counts=4,
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(
        type='AdamW', lr=7.5e-4 * 2048 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    ),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
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
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / 6e-3,
        by_epoch=True,
        begin=20,
        end=100,
        T_max=80,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=100, val_interval=1)

randomness = dict(seed=888, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=7.5e-4 * 2048 / 256, base_batch_size=2048, enable=False)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater')
)
custom_hooks = [
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=4, gamma=9 * 4),
    dict(type='RawWeightsHook'),
]
