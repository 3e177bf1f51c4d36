# MAE on the encoder of mirl_24-blocks.py, same images, schedule and length.
# Command: python tools/train.py benchmarks/tiny_imagenet/mae_24-blocks.py
# Effective batch: 32 on one process. 6 decoder blocks of 48 cost about what MIRL's decoders cost.
_base_ = ['../../configs/_base_/mae.py', './_base_/pretrain.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(
        embed_dim=64,
        num_patches=64,
        patch_size=8,
        decoder_embed_dim=48,
        decoder_depth=6,
        decoder_num_heads=2,
    ),
    head=dict(patch_size=8),
)
