# UperNet with the 12-block test arch, 20 iterations on the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/upernet/vit-test_20it_scenes.py
# Needs: data/scenes (python tools/demo.py --scenes-only) and what configs/mirl/vit-test_2e.py left.
# Effective batch: 2 x 2 accumulated = 4 on one process. The recipe is that of the large archs with
# narrow heads and a shorter schedule, so that every part of it runs.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet.py',
    '../_base_/masks_scenes.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch='test',
        img_size=64,
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-test_2e/encoder.pth'),
    ),
    neck=dict(in_channels=48),
    decode_head=dict(in_channels=[48] * 4, channels=16, num_classes=4),
    auxiliary_head=dict(in_channels=48, channels=16, num_classes=4),
    test_cfg=dict(crop_size=(96, 96), stride=(64, 64)),
)

train_dataloader = dict(batch_size=2)
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
