# MAE on the encoder of configs/demo/mirl_12-blocks.py, same scenes, batch and rate.
# Command: python tools/train.py benchmarks/study/mae_demo.py
# Effective batch: 32 on one process. Its decoder has 8 blocks, as mmpretrain's, 32 wide.
_base_ = ['../../configs/demo/mirl_12-blocks.py']

model = dict(
    _delete_=True,
    type='MAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='MAEViT',
        arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        embed_dim=64,
        num_patches=64,
        patch_size=8,
        decoder_embed_dim=32,
        decoder_depth=8,
        decoder_num_heads=1,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=8,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
)
# mmpretrain's MAE has no predict(): it is trained without validation
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
default_hooks = dict(panel=None)
