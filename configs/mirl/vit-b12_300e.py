# MIRL, ViT-B (12 blocks), 300 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/mirl/vit-b12_300e.py 8
# Effective batch: 512 x 8 GPUs = 4096 (our split for 80 GB GPUs, not measured).
# Published: 83.5 % ImageNet-1k top-1 after fine-tuning (README of github.com/russellllaputa/MIRL).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_300e.py',
]

model = dict(backbone=dict(arch='b12'))
train_dataloader = dict(batch_size=512)
