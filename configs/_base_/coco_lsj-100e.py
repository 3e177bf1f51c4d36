# ViTDet's recipe on COCO: large-scale jitter at 1024 px over 100 epochs. Source: detectron2,
# projects/ViTDet and configs/common/optim.py. A config adds layer_decay_rate.
#  * Flip, resize by 0.1 to 2.0 of 1024 px, crop; padding to 1024 x 1024 is the data preprocessor's.
#  * 184,375 iterations of 64 images. Iterations are micro-iterations: with accumulative_counts=k,
#    multiply max_iters, val_interval, milestones and every end by k.
#  * The rate falls by 10 at 88.9 % and 96.3 %; biases are decayed, norms and positions are not. The
#    cls token and registers, which ViTDet does not have, count as positions.
#  * bf16 here, fp16 there.
#  * `tools/test.py --tta`: at 1024 and 768 px, as it is and flipped. A larger scale would be padded
#    to 2048 x 2048, where positions are stretched. Ours, not tuned.
_base_ = './coco.py'
image_size = (1024, 1024)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=scale, keep_ratio=True)
                for scale in ((1024, 1024), (768, 768))
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackDetInputs')],
        ],
    ),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), token=dict(decay_mult=0.0)),
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
auto_scale_lr = dict(base_lr=1e-4, base_batch_size=64, enable=False)
