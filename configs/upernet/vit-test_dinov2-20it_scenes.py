# UperNet with the 12-block test arch in DINOv2's form (patches of 14 px, layer scale,
# registers), 20 iterations on the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/upernet/vit-test_dinov2-20it_scenes.py \
#   --cfg-options model.backbone.init_cfg=None
# Needs: data/scenes (python tools/demo.py --scenes-only); with weights of that form as
#   weights/dinov2-test.pth, no option. Images of 128 px are padded to 10 x 10 patches.
# Effective batch: 4 on one process.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet_dinov2.py',
    '../_base_/masks_scenes.py',
    '../_base_/dense_500it.py',
]

_encoder = dict(checkpoint='weights/dinov2-test.pth')
model = dict(
    data_preprocessor=dict(size=(140, 140)),
    backbone=dict(
        arch='test', img_size=70, out_indices=(2, 5, 8, 11), num_registers=4, init_cfg=_encoder
    ),
    neck=dict(in_channels=48),
    decode_head=dict(in_channels=[48] * 4, channels=16, num_classes=4),
    auxiliary_head=dict(in_channels=48, channels=16, num_classes=4),
    test_cfg=dict(crop_size=(98, 98), stride=(70, 70)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=4),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=4, end=20, T_max=16),
]
train_cfg = dict(max_iters=20, val_interval=20)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=20))
