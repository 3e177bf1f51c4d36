# Mask R-CNN with the 12-block test arch, 20 iterations on the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/mask-rcnn/vit-test_20it_scenes.py
# Needs: data/scenes (python tools/demo.py --scenes-only) and what configs/mirl/vit-test_2e.py left.
# Effective batch: 2 x 2 accumulated = 4 on one process. The recipe is that of the large archs with
# narrow heads and a shorter schedule, so that every part of it runs.
_base_ = [
    '../_base_/mmdet_runtime.py',
    '../_base_/mask-rcnn.py',
    '../_base_/instances_scenes.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(
        arch='test',
        img_size=64,
        window_size=5,  # of 8 patches: three of the four window shapes are cut off
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='work_dirs/vit-test_2e/encoder.pth'),
    ),
    neck=dict(in_channels=48, out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=64, num_classes=3),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes=3),
    ),
)

train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=2,
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=20, milestones=[17, 19], gamma=0.1),
]
train_cfg = dict(type='ExactIterLoop', max_iters=20, val_interval=20)

default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=20))
auto_scale_lr = dict(base_lr=1e-4, base_batch_size=4, enable=False)
