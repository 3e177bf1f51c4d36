# MIRL, ViT-B-48: linear probe over 90 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/linear/vit-b48_90e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b48_800e/encoder.pth; another one (ours, MAE's):
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 2048 x 8 GPUs = 16384 (not measured). No result was published.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/linear.py',
    '../_base_/linear_in1k.py',
    '../_base_/linear_90e.py',
]

model = dict(
    backbone=dict(
        arch='b48',
        frozen_stages=48,
        init_cfg=dict(checkpoint='work_dirs/vit-b48_800e/encoder.pth'),
    ),
    neck=dict(input_features=768),
    head=dict(in_channels=768),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'),
)
