# Mask R-CNN with the 12-block test arch in DINOv2's form (patches of 14 px, layer scale,
# registers), 20 iterations on the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/mask-rcnn/vit-test_dinov2-20it_scenes.py \
#   --cfg-options model.backbone.init_cfg=None
# Needs: data/scenes (python tools/demo.py --scenes-only); with weights of that form as
#   weights/dinov2-test.pth, no option. Images of 128 px are padded to 10 x 10 patches.
# Effective batch: 4 on one process.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn_dinov2.py',
    '../_base_/instances_scenes.py',
    '../_base_/dense_500it.py',
]

_encoder = dict(checkpoint='weights/dinov2-test.pth')
model = dict(
    data_preprocessor=dict(pad_size_divisor=140),
    backbone=dict(arch='test', img_size=70, window_size=5, num_registers=4, init_cfg=_encoder),
    neck=dict(in_channels=48, out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=64, num_classes=3),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes=3),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=4),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=4, end=20, T_max=16),
]
train_cfg = dict(max_iters=20, val_interval=20)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=20))
