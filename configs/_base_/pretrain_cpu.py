# What pre-training on a CPU shares: float32, and the optimizer of the official recipe without its
# rate. No weight decay on biases and 1-D parameters.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
randomness = dict(seed=0, diff_rank_seed=True)
