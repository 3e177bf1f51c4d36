# The schedule of mmseg's configs/mae: 160,000 iterations of 16 images, warm-up over 1,500, then
# linearly to 0. A config adds layer_decay_rate. With accumulative_counts=k, multiply all lengths by
# k.
#  * bf16 here; the published config's fp16 key is not read by mmseg 1.x, which trains in float32.
#  * No weight decay on biases, norms, positions and cls token.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type='ExactIterLoop', max_iters=160000, val_interval=16000)

auto_scale_lr = dict(base_batch_size=16, enable=False)
