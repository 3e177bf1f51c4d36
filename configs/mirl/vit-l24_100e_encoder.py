# MIRL, ViT-L (24 blocks), 100 epochs under new decoders, from an encoder alone such as MAE's ViT-L.
# Command: tools/dist_train.sh configs/mirl/vit-l24_100e_encoder.py 8
# Effective batch: 128 x 8 GPUs x 4 accumulated = 4096 (our split for 80 GB GPUs, not measured).
# From: model.backbone.init_cfg.checkpoint, a file that tools/convert_checkpoint.py has written from
# MAE's with --to mirl (docs/pretraining.md).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_100e_encoder.py',
]

model = dict(
    backbone=dict(
        arch='l24',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/mae_vit-large.pth', prefix='backbone.'
        ),
    )
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=4)
