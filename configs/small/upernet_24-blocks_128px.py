# UperNet behind mirl_24-blocks_64px.py's encoder, on some thousand own pictures at 128 px.
# Command: mirl train small/upernet_24-blocks_128px --data /my/scenes
#   (from scratch: --cfg-options model.backbone.init_cfg=None)
# Needs: images and masks, and work_dirs/mirl_24-blocks_64px/encoder.pth (or that of 128 px).
# Effective batch: 8 on one process. Width, rate and length are our choice.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet_small.py',
    '../_base_/masks_128px.py',
    '../_base_/dense_4000it.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256),
        out_indices=(7, 15, 23),
        init_cfg=dict(checkpoint='work_dirs/mirl_24-blocks_64px/encoder.pth'),
    ),
    decode_head=dict(num_classes=2),
    auxiliary_head=dict(num_classes=2),
)

default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2), sampler_seed=None
)
