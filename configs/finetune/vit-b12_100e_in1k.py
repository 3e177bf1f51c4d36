# MIRL, ViT-B: fine-tuning over 100 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/finetune/vit-b12_100e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth (another: configs/README.md).
# Effective batch: 128 x 8 GPUs x 2 accumulated = 2048 (our split for 80 GB GPUs, not measured).
# Published: 84.1 % ImageNet-1k top-1 (README of github.com/russellllaputa/MIRL).
# The recipe is that of finetune_multinode.sh, deleted from the official release (commit 6bac52f)
# and written for a forerunner of the published checkpoint.
_base_ = ['../_base_/finetune.py', '../_base_/finetune_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b12', drop_path_rate=0.1, init_cfg=_encoder),
    head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=2, paramwise_cfg=dict(layer_decay_rate=0.6))
custom_hooks = [
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=2, gamma=9 * 2),
    dict(type='RawWeightsHook'),
]
