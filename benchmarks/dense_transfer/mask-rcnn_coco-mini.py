# Mask R-CNN on coco_mini (80 classes, 343 training images), short edge 192, 500 iterations of 4:
# minutes on two CPU cores.
# Command: python tools/train.py benchmarks/dense_transfer/mask-rcnn_coco-mini.py --work-dir DIR \
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
#   (from scratch: model.backbone.init_cfg=None)
# Effective batch: 4 on one process. A hundredth of what 80 classes need: it shows that the chain
# works on COCO's own annotations and in which direction pre-training moves it. Length, width and
# rate are our choice; RoI features are as fine as an image a third of the size asks for.
_base_ = [
    '../../configs/_base_/mmdet_runtime.py',
    '../../configs/_base_/mask-rcnn.py',
    '../../configs/_base_/coco.py',
    '../../configs/_base_/dense_500it.py',
]
data_root = 'data/coco_mini/'

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        arch=dict(embed_dims=96, num_layers=12, num_heads=3, feedforward_channels=384),
        img_size=128,
        window_size=0,
        init_cfg=dict(checkpoint='work_dirs/mirl_coco-mini/encoder.pth'),
    ),
    neck=dict(in_channels=96, out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, num_convs=1, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(score_thr=0.01),
    ),
)

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(_delete_=True, filter_empty_gt=True),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(320, 192), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2)),
            dict(type='PackDetInputs'),
        ],
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(320, 192), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    ),
)
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['segm', 'bbox', 'proposal'],
    classwise=True,  # AP of every class, of the last of segm and bbox
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=30, end=500, T_max=470),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=500, max_keep_ckpts=1), sampler_seed=None
)
