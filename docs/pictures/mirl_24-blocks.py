# What paints the README: MIRL on 24 blocks of 64, scenes whole at 128 px, in patches of 8 px.
# Command: python tools/train.py docs/pictures/mirl_24-blocks.py --work-dir work_dirs/pictures
# Effective batch: 16 on one process. As the demo's, but deeper, and with more patches to look at.
_base_ = ['../../configs/demo/mirl_12-blocks.py']

model = dict(
    backbone=dict(arch=dict(num_layers=24), num_segments=6, img_size=128),
    neck=dict(decoder_embed_dim=64, decoder_num_heads=2),
)
train_pipeline = [
    dict(type='LoadRandomResizedCrop', scale=128, crop_ratio_range=(0.35, 1.0), flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=128, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=100, end=1200, T_max=1100),
]
train_cfg = dict(max_iters=1200, val_interval=400)
auto_scale_lr = dict(base_lr=1e-3, base_batch_size=16)
