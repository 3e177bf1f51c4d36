# MIRL on images of 5 channels in 16 bits (colour, nearness, heat), 2 epochs: seconds on a CPU.
# Command: python tools/train.py configs/mirl/vit-test_2e_5-channels.py
# Needs: python tools/demo.py --scenes-only --bands
# Effective batch: 32 on one process. mean and std are what tools/mean_std.py says of these scenes;
# for other data its words on them go in their place (docs/data.md).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_2e.py',
]

model = dict(
    data_preprocessor=dict(
        type='PerChannel',
        of='SelfSupDataPreprocessor',
        mean=[29688.1, 24901.6, 22762.8, 25097.0, 39752.1],
        std=[18529.4, 16782.7, 16769.3, 18696.1, 14249.0],
        to_rgb=False,
    ),
    backbone=dict(arch='test', img_size=64, in_channels=5),
)

_crop = dict(scale=64, crop_ratio_range=(0.08, 0.35), flip_prob=0.5)
train_pipeline = [
    dict(type='LoadRandomResizedCrop', channels=5, **_crop),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', channels=5),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]
_held_out = dict(
    data_prefix='bands/val',
    extensions=('.tif', '.tiff', '.npy'),
    pipeline=test_pipeline,
)
train_dataloader = dict(dataset=dict(_held_out, data_prefix='bands/train', pipeline=train_pipeline))
val_dataloader = dict(dataset=_held_out)
test_dataloader = val_dataloader
