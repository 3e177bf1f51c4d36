# MAE on the encoder of mirl_tiny.py, same images, schedule and length; its decoder has 8 blocks.
# Command: python tools/train.py benchmarks/study/mae_tiny.py
# Effective batch: 64 on one process.
_base_ = ['../../configs/_base_/mae.py', './_base_/tiny.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(
        embed_dim=64,
        num_patches=64,
        patch_size=8,
        decoder_embed_dim=32,
        decoder_depth=8,
        decoder_num_heads=1,
    ),
    head=dict(patch_size=8),
)
