# MIRL on 24 blocks of 64 at 128 px, for own pictures whose objects 64 px do not show.
# Command: mirl train small/mirl_24-blocks_128px --data /my/pictures
# Effective batch: 64 on one process. As mirl_24-blocks_64px.py, which see, but for the crops:
# patches stay 8 px, as the detection and segmentation behind it want them, so an image costs 3.6
# times as much (benchmarks/results/small_cpu.json). What it learns was not measured.
_base_ = [
    '../_base_/mirl.py',
    '../_base_/pictures_64px.py',
    '../_base_/pretrain_5469it.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        num_segments=6,
        img_size=128,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1),
)

train_pipeline = [
    dict(type='LoadRandomResizedCrop', scale=128, crop_ratio_range=(0.2, 1.0), flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=128, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
