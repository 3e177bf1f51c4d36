# The demo's segmentation: UperNet on the encoder of mirl_12-blocks.py, scenes at 64 px.
# Command: make demo, or python tools/train.py configs/demo/upernet_12-blocks.py
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Effective batch: 4 on one process. Width, learning rate and length are our choice for a CPU.
# Neither a colour nor a direction names a class, so training varies both: labels are few.
# Four fifths of the scenes' pixels are background, which therefore weighs a quarter: so short a
# training would find little else.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet_small.py',
    '../_base_/masks_scenes.py',
    '../_base_/dense_800it.py',
]

_class_weight = [0.25, 1.0, 1.0, 1.0]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        out_indices=(3, 7, 11),
        init_cfg=dict(checkpoint='work_dirs/demo/encoder.pth'),
    ),
    decode_head=dict(num_classes=4, loss_decode=dict(class_weight=_class_weight)),
    auxiliary_head=dict(num_classes=4, loss_decode=dict(class_weight=_class_weight)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PhotoMetricDistortion', hue_delta=90),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=800, max_keep_ckpts=1),
    sampler_seed=None,
    progress=dict(lines=4),
)
