# MIRL, ViT-S (12 blocks), 300 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/mirl/vit-s12_300e.py 8
# Effective batch: 512 x 8 GPUs = 4096 (our split for 80 GB GPUs, not measured).
# Published: nothing found for this arch.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_300e.py',
]

model = dict(backbone=dict(arch='s12'))
train_dataloader = dict(batch_size=512)
