# MIRL, ViT-B: fine-tuning over 100 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/finetune/vit-b12_100e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth; another one (ours, MAE's):
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 128 x 8 GPUs x 2 accumulated = 2048 (our split for 80 GB GPUs, not measured).
# Published: 84.1 % ImageNet-1k top-1 (README of github.com/russellllaputa/MIRL).
# The recipe is that of finetune_multinode.sh, deleted from the official release (commit 6bac52f)
# and written for a forerunner of the published checkpoint.
# Another accumulation k needs interval=k and gamma=9*k in EMAHook, which counts iterations.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/finetune.py',
    '../_base_/finetune_in1k.py',
    '../_base_/finetune_100e.py',
]

model = dict(
    backbone=dict(
        arch='b12',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth'),
    ),
    head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=2, paramwise_cfg=dict(layer_decay_rate=0.6))
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'),
)
custom_hooks = [
    dict(type='RunSummaryHook', base_lr=7.5e-4),
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=2, gamma=9 * 2),
    dict(type='RawAndEMAHook'),
]
