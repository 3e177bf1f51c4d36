# Mask R-CNN, MIRL ViT-S-54: large-scale jitter at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-s54_lsj-100e_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-s54_800e/encoder.pth (another: configs/README.md).
# Effective batch: 8 x 8 GPUs = 64 (8 GPUs of 80 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 51.6 box AP, 45.9 mask AP: MAE ViT-B with this
#   recipe (detectron2, projects/ViTDet); it has the size of ViT-B.
# Layer decay: the first layer's rate is 0.92^55 = 0.010 of the last one's, as in ViTDet's ViT-B
#   (0.7^13 = 0.0097); drop path: that of ViT-B, whose size it has. Ours, not tuned.
_base_ = ['../_base_/mmdet_runtime.py', '../_base_/mask-rcnn.py', '../_base_/coco_lsj-100e.py']
_encoder = dict(checkpoint='work_dirs/vit-s54_800e/encoder.pth')
model = dict(
    backbone=dict(arch='s54', drop_path_rate=0.1, init_cfg=_encoder),
    neck=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.92))
