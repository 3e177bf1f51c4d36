# 12 epochs of COCO as in CAE's detection (github.com/lxtGH/CAE, downstream_tasks/detection), with
# the multi-scale training of DETR. A config adds layer_decay_rate and saves by epoch.
#  * The short edge is 480 to 800 px, for half of the images after a crop. Tested at 800 px.
#  * Batch 32, AdamW 3e-4, weight decay 0.05, steps after 9 and 11 epochs. An epoch of the 117,266
#    images with objects is 3,665 iterations. With accumulative_counts=k, multiply all lengths by k.
#  * `tools/test.py --tta`: at 800 and 640 px, as it is and flipped. Ours, not tuned.
_base_ = './coco.py'
_resize = dict(
    type='RandomChoiceResize',
    scales=[(edge, 1333) for edge in range(480, 801, 32)],
    keep_ratio=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [_resize],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 4200), (500, 4200), (600, 4200)],
                    keep_ratio=True,
                ),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                _resize,
            ],
        ],
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
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
                for scale in ((1333, 800), (1333, 640))
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackDetInputs')],
        ],
    ),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

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
auto_scale_lr = dict(base_lr=3e-4, base_batch_size=32, enable=False)
