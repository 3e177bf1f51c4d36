# Mask R-CNN, DINOv2 ViT-L/14: large-scale jitter at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-l24_dinov2-lsj-100e_coco.py 8
# Needs: the encoder of facebook/dinov2-large as weights/dinov2-l.pth (docs/vit-you-have.md):
#   python tools/convert_checkpoint.py dinov2-large/ weights/dinov2-l.pth
# With registers: convert dinov2-with-registers-large/, and --cfg-options \
#   model.backbone.num_registers=4 model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 8 x 8 GPUs = 64 (8 GPUs of 80 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 55.5 box AP, 49.2 mask AP: MAE ViT-L with this
#   recipe at patches of 16 px (detectron2, projects/ViTDet).
# Layer decay and drop path: those of ViTDet for ViT-L; no weight decay on layer scale. Ours for
#   these weights, not tuned.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn_dinov2.py',
    '../_base_/coco_lsj-100e.py',
]
_encoder = dict(checkpoint='weights/dinov2-l.pth')
model = dict(
    backbone=dict(arch='l24', drop_path_rate=0.4, init_cfg=_encoder),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(
    paramwise_cfg=dict(layer_decay_rate=0.8, custom_keys=dict(gamma=dict(decay_mult=0.0)))
)
