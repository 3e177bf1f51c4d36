# Mask R-CNN, MIRL ViT-B-48, tested with soft-NMS: LSJ at 1024 px over 100 epochs of COCO.
# Command: tools/dist_train.sh configs/mask-rcnn/vit-b48_lsj-100e-soft-nms_coco.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b48_800e/encoder.pth (another: configs/README.md).
# Effective batch: 4 x 8 GPUs x 2 accumulated = 64, so all lengths are twice those of the recipe.
# Hardware: 8 GPUs of 80 GB (estimated, not measured); on smaller ones, docs/dense.md.
# Published: paper number not available. To beat: 55.5 box AP, 49.2 mask AP: MAE ViT-L with this
#   recipe (detectron2, projects/ViTDet) and plain NMS; it has the size of ViT-L.
# Training is that of vit-b48_lsj-100e_coco.py, whose checkpoints can be tested with this config.
#   Soft-NMS lowers the score of a box that overlaps a better one of its class instead of dropping
#   it: linear by the overlap, from an IoU of 0.5; what falls below 0.001 goes. Not tuned.
_base_ = ['../_base_/mmdet_runtime.py', '../_base_/mask-rcnn.py', '../_base_/coco_lsj-100e.py']
_encoder = dict(checkpoint='work_dirs/vit-b48_800e/encoder.pth')
_soft = dict(type='soft_nms', iou_threshold=0.5, method='linear', min_score=0.001)
model = dict(
    backbone=dict(arch='b48', drop_path_rate=0.4, init_cfg=_encoder),
    neck=dict(in_channels=768),
    test_cfg=dict(rcnn=dict(nms=_soft)),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(accumulative_counts=2, paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=2 * 250),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=2 * 184375,
        milestones=[2 * 163889, 2 * 177546],
        gamma=0.1,
    ),
]
train_cfg = dict(max_iters=2 * 184375, val_interval=2 * 5000)
default_hooks = dict(checkpoint=dict(interval=2 * 5000))
