# MIRL, ViT-S-54, 800 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/mirl/vit-s54_800e.py 8
# Effective batch: 256 x 8 GPUs x 2 accumulated = 4096 (our split for 80 GB GPUs, not measured).
# Published: 84.8 % ImageNet-1k top-1 after fine-tuning (README of github.com/russellllaputa/MIRL).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_800e.py',
]

model = dict(backbone=dict(arch='s54'))
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(accumulative_counts=2)
