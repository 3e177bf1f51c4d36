# Mask R-CNN behind mirl_24-blocks_64px.py's encoder, on some thousand own pictures at 128 px.
# Command: mirl train small/mask-rcnn_24-blocks_128px --data /my/coco
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Needs: a COCO folder, and work_dirs/mirl_24-blocks_64px/encoder.pth (or that of 128 px).
# Effective batch: 8 on one process. Anchors are 16 to 128 px wide, at strides of 4 to 32 px: the
# pyramid's are told in sixteenths of a patch, which has 8. Width, rate and length are our choice.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn_small.py',
    '../_base_/instances_128px.py',
    '../_base_/dense_4000it.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        init_cfg=dict(checkpoint='work_dirs/mirl_24-blocks_64px/encoder.pth'),
    ),
    neck=dict(strides=(8, 16, 32, 64)),
    rpn_head=dict(anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8, 16], finest_scale=28),
        bbox_head=dict(num_classes=1),
        mask_roi_extractor=dict(featmap_strides=[4, 8, 16], finest_scale=28),
        mask_head=dict(num_classes=1),
    ),
)

default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2), sampler_seed=None
)
