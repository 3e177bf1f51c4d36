# MIRL, ViT-B-48: linear probe over 90 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/linear/vit-b48_90e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b48_800e/encoder.pth (another: configs/README.md).
# Effective batch: 2048 x 8 GPUs = 16384 (not measured). No result was published.
_base_ = ['../_base_/linear.py', '../_base_/linear_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-b48_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b48', frozen_stages=48, init_cfg=_encoder),
    neck=dict(input_features=768),
    head=dict(in_channels=768),
)
