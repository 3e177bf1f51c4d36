# MIRL, ViT-S-54: fine-tuning over 100 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/finetune/vit-s54_100e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-s54_800e/encoder.pth (another: configs/README.md).
# Effective batch: 64 x 8 GPUs x 4 accumulated = 2048 (our split for 80 GB GPUs, not measured).
# Published: 84.8 % ImageNet-1k top-1 (README of github.com/russellllaputa/MIRL).
_base_ = ['../_base_/finetune.py', '../_base_/finetune_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-s54_800e/encoder.pth')
model = dict(
    backbone=dict(arch='s54', drop_path_rate=0.1, init_cfg=_encoder),
    head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.88))
