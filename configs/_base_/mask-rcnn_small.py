# Mask R-CNN with narrow heads for pictures of 128 px, whose boxes and masks do not depend on the
# class: a short run on few pictures has little to learn them from. A config adds the arch, the
# strides of pyramid, anchors and RoIs, the classes and the checkpoint. The map of 128 px is small:
# every block is global. RoIAlign is torchvision's, which on a CPU gives mmcv's numbers, to the bit,
# in half the time.
_base_ = './mask-rcnn.py'

_roi_align = dict(use_torchvision=True)
model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(img_size=64, patch_size=8, window_size=0),
    neck=dict(in_channels=64, out_channels=48),
    rpn_head=dict(in_channels=48, feat_channels=48, num_convs=1),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=_roi_align, out_channels=48),
        bbox_head=dict(
            _delete_=True,
            type='Shared2FCBBoxHead',
            in_channels=48,
            fc_out_channels=128,
            roi_feat_size=7,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            reg_class_agnostic=True,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        mask_roi_extractor=dict(roi_layer=_roi_align, out_channels=48),
        mask_head=dict(num_convs=1, in_channels=48, conv_out_channels=48, class_agnostic=True),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
