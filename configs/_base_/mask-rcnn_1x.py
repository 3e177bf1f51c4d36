# 12 epochs of COCO as in CAE's detection (github.com/lxtGH/CAE, downstream_tasks/detection): batch
# 32, AdamW 3e-4, weight decay 0.05, steps after 9 and 11 epochs. An epoch of the 117,266 images
# with objects is 3,665 iterations. A config adds layer_decay_rate. With accumulative_counts=k,
# multiply all lengths by k.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=12 * 3665,
        milestones=[9 * 3665, 11 * 3665],
        gamma=0.1,
    ),
]
train_cfg = dict(type='ExactIterLoop', max_iters=12 * 3665, val_interval=3665)

auto_scale_lr = dict(base_batch_size=32, enable=False)
