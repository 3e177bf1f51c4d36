# The official fine-tuning recipe over 60 epochs, per-iteration schedule. Source: the official
# FINETUNE.md and main_finetune.py (github.com/russellllaputa/MIRL). A config adds layer_decay_rate
# and the accumulation, with the hooks that follow from it.
#  * eta_min_ratio is 1e-6 / 6e-3: the floor is scaled per layer like the rate, as there.
#  * Warm-up starts at 1e-9 of the rate: MMEngine's LinearLR cannot start from 0.
#  * No weight decay on biases, norms, positions and cls token.
#  * bf16 here, fp16 with a loss scaler there.
optim_wrapper = dict(
    type='AmpOptimWrapper',
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
        end=30,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / 6e-3,
        by_epoch=True,
        begin=30,
        end=60,
        T_max=30,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=60, val_interval=1)

randomness = dict(seed=888, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=2048, enable=False)
