# Mask R-CNN, MIRL ViT-B: multi-scale training over 12 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-b12_1x_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth (another: configs/README.md).
# Effective batch: 4 x 8 GPUs = 32 (8 GPUs of 40 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 48.4 box AP, 42.6 mask AP: MAE ViT-B, 1600
#   epochs, under the protocol of CAE (README of github.com/lxtGH/CAE).
# Batch, rate, layer decay, drop path, steps and image sizes are that protocol's. Ours are the
# simple pyramid, LN instead of SyncBN, windows, and the L1 box loss (it has four taps with FPN, and
# GIoU).
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn.py',
    '../_base_/coco_multi-scale-1x.py',
]
_encoder = dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth')
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(arch='b12', drop_path_rate=0.2, init_cfg=_encoder),
    neck=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
default_hooks = dict(checkpoint=dict(interval=3665))
