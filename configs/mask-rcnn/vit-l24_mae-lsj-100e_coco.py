# Mask R-CNN, MAE ViT-L: large-scale jitter at 1024 px over 100 epochs of COCO, as ViTDet's ViT-L.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-l24_mae-lsj-100e_coco.py 8
# Needs: MAE's encoder as weights/mae-l.pth (docs/vit-you-have.md):
#   python tools/convert_checkpoint.py mae_pretrain_vit_large.pth weights/mae-l.pth --arch l24
# Effective batch: 8 x 8 GPUs = 64 (8 GPUs of 80 GB, estimated; smaller ones: docs/dense.md).
# Published: 55.5 box AP, 49.2 mask AP with this recipe (detectron2, projects/ViTDet), which has
#   relative positions beside it, padded windows and no final norm. To beat: 55.5 box AP.
# Layer decay and drop path: those of ViTDet for ViT-L.
_base_ = ['../_base_/mmdet_runtime.py', '../_base_/mask-rcnn.py', '../_base_/coco_lsj-100e.py']
_encoder = dict(checkpoint='weights/mae-l.pth')
model = dict(
    backbone=dict(arch='l24', drop_path_rate=0.4, init_cfg=_encoder),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
