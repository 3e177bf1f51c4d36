# ViTDet's schedule: 184,375 iterations of 64 images are 100 epochs of COCO. Source: detectron2,
# projects/ViTDet and configs/common/optim.py. A config adds layer_decay_rate.
#  * Iterations are micro-iterations: with accumulative_counts=k, multiply max_iters, val_interval,
#    milestones and every end by k.
#  * The rate falls by 10 at 88.9 % and 96.3 %; biases are decayed, norms and positions are not. The
#    cls token, which ViTDet does not have, counts as a position.
#  * bf16 here, fp16 there.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=184375,
        milestones=[163889, 177546],
        gamma=0.1,
    ),
]
train_cfg = dict(type='ExactIterLoop', max_iters=184375, val_interval=5000)

auto_scale_lr = dict(base_batch_size=64, enable=False)
