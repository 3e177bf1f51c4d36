# Mask R-CNN, MIRL ViT-B-24: large-scale jitter at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-b24_lsj-100e_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b24_300e/encoder.pth (another: configs/README.md).
# Effective batch: 8 x 8 GPUs = 64 (8 GPUs of 80 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 51.6 box AP, 45.9 mask AP: MAE ViT-B with this
#   recipe (detectron2, projects/ViTDet); ViT-L, twice its size: 55.5 and 49.2.
# Layer decay: that of ViTDet for 24 layers (ViT-L); drop path: between its ViT-B (0.1) and ViT-L
#   (0.4), as the size is. Ours, not tuned.
_base_ = ['../_base_/mmdet_runtime.py', '../_base_/mask-rcnn.py', '../_base_/coco_lsj-100e.py']
_encoder = dict(checkpoint='work_dirs/vit-b24_300e/encoder.pth')
model = dict(
    backbone=dict(arch='b24', drop_path_rate=0.2, init_cfg=_encoder),
    neck=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
