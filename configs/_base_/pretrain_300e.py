# The official pre-training recipe over 300 epochs, per-iteration schedule. Source: the official
# PRETRAIN.md and main_pretrain.py (github.com/russellllaputa/MIRL).
#  * The official command says --epochs 301, its cosine runs over 301; here it ends with the run.
#  * Warm-up starts at 1e-9 of the rate: MMEngine's LinearLR cannot start from 0.
#  * No weight decay on biases and 1-D parameters only: cls and mask tokens are decayed, as there.
#  * bf16 here, fp16 with a loss scaler there.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(
        type='AdamW',
        lr=1.5e-4 * 4096 / 256,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.05,
        fused=True,
    ),
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=40,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=40,
        end=300,
        T_max=260,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=300)

randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_lr=1.5e-4 * 4096 / 256, base_batch_size=4096, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
