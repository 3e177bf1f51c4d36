# MIRL on 24 blocks of 64 for some thousand own pictures at 64 px: under an hour of one CPU thread.
# Command: mirl train small/mirl_24-blocks_64px --data /my/pictures
# Effective batch: 64 on one process. Settings, length and rate are those of benchmarks/study, whose
# results docs/small-data.md has.
_base_ = [
    '../_base_/mirl.py',
    '../_base_/pictures_64px.py',
    '../_base_/pretrain_5469it.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        num_segments=6,
        img_size=64,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1),
)
