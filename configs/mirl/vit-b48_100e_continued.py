# MIRL, ViT-B-48, 100 epochs more from a whole checkpoint (encoder and decoders) on other images.
# Command: tools/dist_train.sh configs/mirl/vit-b48_100e_continued.py 8 --data /my/pictures
# Effective batch: 64 x 8 GPUs x 8 accumulated = 4096 (our split for 80 GB GPUs, not measured).
# From: load_from, a run's checkpoint or a converted official one (docs/pretraining.md).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_100e.py',
]

load_from = 'work_dirs/vit-b48_800e/epoch_800.pth'
model = dict(backbone=dict(arch='b48'))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(accumulative_counts=8)
