# The demo's segmentation: UperNet on the encoder of mirl_24-blocks.py, 128 px scenes.
# Command: make demo, or python tools/train.py configs/demo/upernet_24-blocks.py
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Effective batch: 4 on one process. Width, learning rate and length are our choice for a CPU.
# Scenes are evaluated whole. Three quarters of their pixels are background, which therefore weighs
# a quarter: so short a training would find little else.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet.py',
    '../_base_/masks_scenes.py',
    '../_base_/dense_500it.py',
]

_class_weight = [0.25, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=4, feedforward_channels=256),
        img_size=128,
        out_indices=(5, 11, 17, 23),
        init_cfg=dict(checkpoint='work_dirs/demo/encoder.pth'),
    ),
    neck=dict(in_channels=64),
    decode_head=dict(
        in_channels=[64] * 4,
        channels=64,
        num_classes=7,
        loss_decode=dict(class_weight=_class_weight),
    ),
    auxiliary_head=dict(
        in_channels=64, channels=64, num_classes=7, loss_decode=dict(class_weight=_class_weight)
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)

train_dataloader = dict(batch_size=4)

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
    sampler_seed=None,
    progress=dict(lines=4),
)
