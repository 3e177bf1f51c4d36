# The demo's detection: Mask R-CNN on the encoder of mirl_12-blocks.py, scenes at 64 px.
# Command: make demo, or python tools/train.py configs/demo/mask-rcnn_12-blocks.py
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Effective batch: 4 on one process. Width, learning rate and length are our choice for a CPU.
# Neither a colour nor a direction names a class, so training varies both: labels are few.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn_small.py',
    '../_base_/instances_scenes.py',
    '../_base_/dense_800it.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        init_cfg=dict(checkpoint='work_dirs/demo/encoder.pth'),
    ),
    neck=dict(strides=(8, 16)),  # sixteenths of a patch: 4 and 8 px
    rpn_head=dict(anchor_generator=dict(scales=[5], strides=[4, 8])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8]),
        bbox_head=dict(num_classes=3),
        mask_roi_extractor=dict(featmap_strides=[4, 8]),
        mask_head=dict(num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rcnn=dict(score_thr=0.01, max_per_img=20)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PhotoMetricDistortion', hue_delta=90),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=800, max_keep_ckpts=1),
    sampler_seed=None,
    progress=dict(lines=4),
)
