"""A classifier, a detector and a segmentor around the `test` encoder, small enough for a CPU."""

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mirl_mm.libraries import check_libraries

WIDTH = 48
CLASSES = 3
PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def build(scope: str, cfg: dict) -> nn.Module:
    """Build under the default scope of mmpretrain, mmdet or mmseg, as their tools do."""
    check_libraries(scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(cfg))


def classifier(**backbone) -> nn.Module:
    """Fine-tuning: pooled patches, their own norm, a linear head."""
    backbone = dict(out_type='avg_featmap', final_norm=False, img_size=64, **backbone)
    return build(
        'mmpretrain',
        dict(
            type='ImageClassifier',
            backbone=dict(type='MIRLViT', **{'arch': 'test', **backbone}),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=WIDTH),
        ),
    )


def mask_rcnn(neck: list | dict | None = None, **backbone) -> nn.Module:
    """Mask R-CNN on ViTDet's pyramid; one or two layers per head."""
    channels = 16
    box_coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1] * 4)
    softmax = dict(type='CrossEntropyLoss')
    sampler = dict(type='RandomSampler', num=16, pos_fraction=0.5)
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.3)
    nms = dict(nms_pre=20, max_per_img=10, nms=dict(type='nms', iou_threshold=0.7))

    def extractor(size: int) -> dict:
        return dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
            out_channels=channels,
            featmap_strides=[4, 8, 16, 32],
        )

    cfg = dict(
        type='MaskRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            bgr_to_rgb=True,
            pad_mask=True,
            pad_size_divisor=32,
            **PIXELS,
        ),
        backbone=dict(type='MIRLDenseViT', **{'arch': 'test', 'img_size': 64, **backbone}),
        neck=neck
        or dict(
            type='MIRLPyramid',
            in_channels=WIDTH,
            out_channels=channels,
            strides=(4, 8, 16, 32, 64),
        ),
        rpn_head=dict(
            type='RPNHead',
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32, 64]
            ),
            bbox_coder=dict(box_coder, target_stds=[1.0] * 4),
            loss_cls=dict(softmax, use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=extractor(3),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=channels,
                fc_out_channels=16,
                roi_feat_size=3,
                num_classes=CLASSES,
                bbox_coder=box_coder,
                loss_cls=softmax,
                loss_bbox=dict(type='L1Loss'),
            ),
            mask_roi_extractor=extractor(6),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=channels,
                conv_out_channels=channels,
                num_classes=CLASSES,
                loss_mask=dict(softmax, use_mask=True),
            ),
        ),
        train_cfg=dict(
            rpn=dict(assigner=assigner, sampler=sampler, allowed_border=-1, pos_weight=-1),
            rpn_proposal=dict(nms, min_bbox_size=0),
            rcnn=dict(
                assigner=assigner,
                sampler=dict(sampler, add_gt_as_proposals=True),
                mask_size=12,
                pos_weight=-1,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms, min_bbox_size=0),
            rcnn=dict(
                score_thr=0.05,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
                mask_thr_binary=0.5,
            ),
        ),
    )
    return build('mmdet', cfg)


def upernet(**backbone) -> nn.Module:
    """UperNet on four taps, with the auxiliary FCN head."""
    common = dict(
        channels=8,
        num_classes=CLASSES,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    backbone = {'arch': 'test', 'img_size': 64, 'out_indices': (2, 5, 8, 11), **backbone}
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', bgr_to_rgb=True, size=(96, 64), pad_val=0, **PIXELS
        ),
        backbone=dict(type='MIRLDenseViT', **backbone),
        neck=dict(type='MIRLPyramid', in_channels=WIDTH, mode='taps'),
        decode_head=dict(
            type='UPerHead',
            in_channels=[WIDTH] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
            **common,
        ),
        auxiliary_head=dict(
            type='FCNHead', in_channels=WIDTH, in_index=2, num_convs=1, concat_input=False, **common
        ),
        test_cfg=dict(mode='whole'),
    )
    return build('mmseg', cfg)
