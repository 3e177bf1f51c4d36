# MIRL on 24 blocks of 192 for some thousand own pictures at 64 px: for one GPU, not measured.
# Command: mirl train small/mirl_24-blocks-192_64px --data /my/pictures
# Effective batch: 1024 on one process. Width, batch, rate and precision are those of the depth
# stage of benchmarks/gpu, which has not been run: the official rate, 1.5e-4 for 256 images, in
# bfloat16. 10,500,000 images seen, its 300 epochs of 35,000. A smaller batch: --auto-scale-lr.
_base_ = [
    '../_base_/mirl.py',
    '../_base_/pictures_64px.py',
    '../_base_/pretrain_5469it.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=192, num_layers=24, num_heads=6, feedforward_channels=768),
        num_segments=6,
        img_size=64,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dim=192, decoder_depth=1, decoder_num_heads=6),
)

train_dataloader = dict(batch_size=1024, num_workers=8)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=dict(enabled=False),
    optimizer=dict(lr=1.5e-4 * 1024 / 256),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=1367),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=1367, end=10254, T_max=8887),
]
train_cfg = dict(max_iters=10254)
auto_scale_lr = dict(base_lr=1.5e-4 * 1024 / 256, base_batch_size=1024)
