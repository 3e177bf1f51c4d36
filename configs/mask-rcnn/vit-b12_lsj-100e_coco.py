# Mask R-CNN, MIRL ViT-B: large-scale jitter at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-b12_lsj-100e_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth; another one (ours, MAE's):
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Hardware: 8 GPUs of 80 GB (estimated, not measured); on smaller ones, docs/dense.md.
# Effective batch: 8 x 8 GPUs = 64.
# Published: paper number not available. To beat: 51.6 box AP, 45.9 mask AP: MAE ViT-B with this
#   recipe (detectron2, projects/ViTDet).
# Layer decay and drop path: those of ViTDet for ViT-B.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn.py',
    '../_base_/coco_lsj-1024.py',
    '../_base_/mask-rcnn_100e.py',
]

model = dict(
    backbone=dict(
        arch='b12',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth'),
    ),
    neck=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7))
custom_hooks = [dict(type='RunSummaryHook', base_lr=1e-4, base_batch_size=64)]
