# MIRL, ViT-B-24: fine-tuning over 100 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/finetune/vit-b24_100e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b24_300e/encoder.pth (another: configs/README.md).
# Effective batch: 64 x 8 GPUs x 4 accumulated = 2048 (our split for 80 GB GPUs, not measured).
# Published: 84.7 % ImageNet-1k top-1 (README of github.com/russellllaputa/MIRL).
# No recipe was published for this arch. Ours: that of b12 with a layer decay that gives the first
# layer the rate it has there and in b48 (0.77^25 = 1.5e-3, between 0.6^13 and 0.88^49).
_base_ = ['../_base_/finetune.py', '../_base_/finetune_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-b24_300e/encoder.pth')
model = dict(
    backbone=dict(arch='b24', drop_path_rate=0.1, init_cfg=_encoder),
    head=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.77))
