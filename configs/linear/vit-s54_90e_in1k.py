# MIRL, ViT-S-54: linear probe over 90 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/linear/vit-s54_90e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-s54_800e/encoder.pth (another: configs/README.md).
# Effective batch: 2048 x 8 GPUs = 16384 (not measured). No result was published.
_base_ = ['../_base_/linear.py', '../_base_/linear_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-s54_800e/encoder.pth')
model = dict(
    backbone=dict(arch='s54', frozen_stages=54, init_cfg=_encoder),
    neck=dict(input_features=384),
    head=dict(in_channels=384),
)
