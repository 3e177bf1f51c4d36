# UperNet on CamVid (11 classes, 480x360), 300 iterations of 8: minutes on two CPU cores.
# Command: python tools/train.py benchmarks/dense_transfer/upernet_camvid.py --work-dir DIR \
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
#   (from scratch: model.backbone.init_cfg=None)
# Effective batch: 8 on one process. Trained on crops of 192 px, evaluated on whole images: 30 x 23
# patches of 16 px. Label 0 is a class (sky), 255 is ignored. Length, width and rate are our choice.
_base_ = [
    '../../configs/_base_/mmseg_runtime.py',
    '../../configs/_base_/upernet.py',
    '../../configs/_base_/dense_500it.py',
]
data_root = 'data/camvid/'
metainfo = dict(
    classes=(
        'Sky',
        'Building',
        'Pole',
        'Road',
        'Pavement',
        'Tree',
        'SignSymbol',
        'Fence',
        'Car',
        'Pedestrian',
        'Bicyclist',
    )
)

model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(
        arch=dict(embed_dims=96, num_layers=12, num_heads=3, feedforward_channels=384),
        img_size=128,
        out_indices=(2, 5, 8, 11),
        init_cfg=dict(checkpoint='work_dirs/mirl_camvid/encoder.pth'),
    ),
    neck=dict(in_channels=96),
    decode_head=dict(in_channels=[96] * 4, channels=48, num_classes=11),
    auxiliary_head=dict(in_channels=96, channels=48, num_classes=11),
    test_cfg=dict(_delete_=True, mode='whole'),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=metainfo,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 1.5), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(192, 192), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_cfg = dict()
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        val_dataloader['dataset'],
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
    ),
)
test_evaluator = val_evaluator
test_cfg = dict()

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=30, end=300),
]
train_cfg = dict(max_iters=300, val_interval=150)

default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=300, max_keep_ckpts=1), sampler_seed=None
)
auto_scale_lr = dict(base_lr=1e-3, base_batch_size=8, enable=False)
