# MAE on the encoder of ViT-B-48, 300 epochs on ImageNet-1k, under MIRL's schedule.
# Command: tools/dist_train.sh configs/mae/vit-b48_300e.py 8
# Effective batch: 64 x 8 GPUs x 8 accumulated = 4096 (our split for 80 GB GPUs, not measured).
# Published: nothing found; the baseline for MIRL at equal depth.
# Decoder: 8 blocks of 512. Cls and mask tokens are decayed, as in the official MAE and unlike
# mmpretrain's own configs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mae.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_300e.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=768, num_layers=48, num_heads=12, feedforward_channels=3072)
    ),
    neck=dict(embed_dim=768, decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(accumulative_counts=8)
