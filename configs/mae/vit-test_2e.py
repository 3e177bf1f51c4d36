# MAE on the encoder of MIRL's test arch, 2 epochs over the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/mae/vit-test_2e.py
# Effective batch: 32 on one process.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mae.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_2e.py',
]

model = dict(
    backbone=dict(
        arch=dict(embed_dims=48, num_layers=12, num_heads=4, feedforward_channels=192), img_size=64
    ),
    neck=dict(
        embed_dim=48, decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4, num_patches=16
    ),
)
# mmpretrain's MAE has no predict(): it is trained without validation
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
