# Mask R-CNN, MIRL ViT-B: large-scale jitter at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-b12_lsj-100e_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth (another: configs/README.md).
# Effective batch: 8 x 8 GPUs = 64 (8 GPUs of 80 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 51.6 box AP, 45.9 mask AP: MAE ViT-B with this
#   recipe (detectron2, projects/ViTDet).
# Layer decay and drop path: those of ViTDet for ViT-B.
_base_ = ['../_base_/mmdet_runtime.py', '../_base_/mask-rcnn.py', '../_base_/coco_lsj-100e.py']
_encoder = dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b12', drop_path_rate=0.1, init_cfg=_encoder),
    neck=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7))
