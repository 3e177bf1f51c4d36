# MIRL on the 12-block test arch, 2 epochs over the demo's scenes: seconds on a CPU.
# Command: python tools/train.py configs/mirl/vit-test_2e.py
# Effective batch: 32 on one process. The arch is that of our golden figures (tests/data).
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_2e.py',
]

model = dict(backbone=dict(arch='test', img_size=64))
