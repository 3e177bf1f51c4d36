# 500 iterations of 4 on a CPU for detectors and segmentors, in float32. Rate, warm-up and length
# are our choice; layer decay for 24 blocks. No weight decay on biases and norms.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.95, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=50, end=500, T_max=450),
]
train_cfg = dict(type='ExactIterLoop', max_iters=500, val_interval=500)

auto_scale_lr = dict(base_lr=1e-3, base_batch_size=4, enable=False)
