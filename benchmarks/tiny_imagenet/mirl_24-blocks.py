# MIRL on 24 blocks of 64, Tiny-ImageNet-100 at 64 px, 5 epochs: about 20 minutes on one CPU core.
# Command: python tools/train.py benchmarks/tiny_imagenet/mirl_24-blocks.py
# Effective batch: 32 on one process. Segments as in b24; heads of 32 as in the 384-wide archs.
_base_ = ['../../configs/_base_/mirl.py', './_base_/pretrain.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        num_segments=4,
        img_size=64,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=48, decoder_depth=1, decoder_num_heads=2),
)
