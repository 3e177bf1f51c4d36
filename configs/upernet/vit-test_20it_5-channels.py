# UperNet on images of 5 channels in 16 bits (colour, nearness, heat), 20 iterations on a CPU.
# Command: python tools/train.py configs/upernet/vit-test_20it_5-channels.py
# Needs: python tools/demo.py --scenes-only --bands, and what
# configs/mirl/vit-test_2e_5-channels.py left. An encoder for RGB will do as well, after
# tools/convert_checkpoint.py --channels 5.
# Effective batch: 2 x 2 accumulated = 4 on one process. The recipe is vit-test_20it_scenes.py's.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet.py',
    '../_base_/masks_scenes.py',
]

model = dict(
    data_preprocessor=dict(
        type='PerChannel',
        of='SegDataPreProcessor',
        mean=[29688.1, 24901.6, 22762.8, 25097.0, 39752.1],
        std=[18529.4, 16782.7, 16769.3, 18696.1, 14249.0],
        bgr_to_rgb=False,
        size=(128, 128),
    ),
    backbone=dict(
        arch='test',
        img_size=64,
        in_channels=5,
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-test_2e_5-channels/encoder.pth'),
    ),
    neck=dict(in_channels=48),
    decode_head=dict(in_channels=[48] * 4, channels=16, num_classes=4),
    auxiliary_head=dict(in_channels=48, channels=16, num_classes=4),
    test_cfg=dict(crop_size=(96, 96), stride=(64, 64)),
)

_load = [dict(type='LoadImageFromFile', channels=5), dict(type='LoadAnnotations')]
train_pipeline = [*_load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [*_load, dict(type='PackSegInputs')]
_held_out = dict(
    data_prefix=dict(img_path='bands/val'),
    img_suffix='.tif',
    pipeline=test_pipeline,
)
_train = dict(
    data_prefix=dict(img_path='bands/train'),
    img_suffix='.tif',
    pipeline=train_pipeline,
)
train_dataloader = dict(batch_size=2, dataset=_train)
val_dataloader = dict(dataset=_held_out)
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=2,
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=4),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=4, end=20),
]
train_cfg = dict(type='ExactIterLoop', max_iters=20, val_interval=20)

default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=20))
auto_scale_lr = dict(base_lr=1e-4, base_batch_size=4, enable=False)
