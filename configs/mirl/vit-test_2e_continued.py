# MIRL on the 12-block test arch, 2 epochs more from a whole checkpoint: seconds on a CPU.
# Command: python tools/train.py configs/mirl/vit-test_2e_continued.py
# Effective batch: 32 on one process.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_2e.py',
]

load_from = 'work_dirs/vit-test_2e/epoch_2.pth'
model = dict(backbone=dict(arch='test', img_size=64))
