# MAE on the encoder of ViT-S-54, 300 epochs on ImageNet-1k, under MIRL's schedule.
# Command: tools/dist_train.sh configs/mae/vit-s54_300e.py 8
# Effective batch: 256 x 8 GPUs x 2 accumulated = 4096 (our split for 80 GB GPUs, not measured).
# Published: nothing found; the baseline for MIRL at equal depth.
# Decoder: 8 blocks of 384. Cls and mask tokens are decayed, as in the official MAE and unlike
# mmpretrain's own configs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mae.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_300e.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=384, num_layers=54, num_heads=12, feedforward_channels=1536)
    ),
    neck=dict(embed_dim=384, decoder_embed_dim=384, decoder_depth=8, decoder_num_heads=12),
)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(accumulative_counts=2)
