# MIRL on 12 blocks of 64 (the grid sets others), 6 segments and decoders of one block, 32 wide.
# Command: python tools/train.py benchmarks/study/mirl_tiny.py
# Effective batch: 64 on one process. Heads of 32 as in the 384-wide archs.
_base_ = ['../../configs/_base_/mirl.py', './_base_/tiny.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        num_segments=6,
        img_size=64,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1),
)
