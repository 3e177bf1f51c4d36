# A two-epoch schedule that a CPU finishes in seconds: for tests and first tries.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1.5e-3 * 32 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    ),
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)

param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=0,
        end=2,
        T_max=2,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=2, val_interval=1)

randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=32, enable=False)
custom_hooks = [dict(type='RunSummaryHook', base_lr=1.5e-3), dict(type='ExportEncoderHook')]
