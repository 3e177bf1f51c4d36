# The demo's detection: Mask R-CNN on the encoder of mirl_24-blocks.py, 128 px scenes.
# Command: make demo, or python tools/train.py configs/demo/mask-rcnn_24-blocks.py
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Effective batch: 4 on one process. Width, learning rate and length are our choice for a CPU.
# The map is 8 x 8 patches: every block is global. Small heads, whose boxes and masks do not depend
# on the class: in so short a run, more steps are worth more.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn.py',
    '../_base_/instances_scenes.py',
    '../_base_/dense_500it.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=4, feedforward_channels=256),
        img_size=128,
        window_size=0,
        init_cfg=dict(checkpoint='work_dirs/demo/encoder.pth'),
    ),
    neck=dict(in_channels=64, out_channels=48),
    rpn_head=dict(in_channels=48, feat_channels=48, num_convs=1),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48),
        bbox_head=dict(
            _delete_=True,
            type='Shared2FCBBoxHead',
            in_channels=48,
            fc_out_channels=128,
            roi_feat_size=7,
            num_classes=6,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            reg_class_agnostic=True,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        mask_roi_extractor=dict(out_channels=48),
        mask_head=dict(
            num_convs=1, in_channels=48, conv_out_channels=48, num_classes=6, class_agnostic=True
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(score_thr=0.01, max_per_img=20)
    ),
)

train_dataloader = dict(batch_size=4)

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
    sampler_seed=None,
    progress=dict(lines=4),
)
