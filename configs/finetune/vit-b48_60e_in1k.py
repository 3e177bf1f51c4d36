# MIRL, ViT-B-48: fine-tuning over 60 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/finetune/vit-b48_60e_in1k.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b48_800e/encoder.pth (another: configs/README.md).
# Effective batch: 32 x 8 GPUs x 8 accumulated = 2048 (our split for 80 GB GPUs, not measured).
# Half of the 60 epochs are warm-up; no drop path.
# Published: 86.2 % ImageNet-1k top-1 (README of github.com/russellllaputa/MIRL).
_base_ = ['../_base_/finetune.py', '../_base_/finetune_in1k.py']
_encoder = dict(checkpoint='work_dirs/vit-b48_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b48', drop_path_rate=0.0, init_cfg=_encoder),
    head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=8, paramwise_cfg=dict(layer_decay_rate=0.88))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=30,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-6 / 6e-3,
        by_epoch=True,
        begin=30,
        end=60,
        T_max=30,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=60)
custom_hooks = [
    dict(type='EMAHook', ema_type='ForeachEMA', momentum=2e-4, interval=8, gamma=9 * 8),
    dict(type='RawWeightsHook'),
]
