# The demo's pre-training, six times as long: about an hour on two CPU cores.
# Command: make demo LONG=1
# Effective batch: 32 on one process.
_base_ = './mirl_12-blocks.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=100, end=20000, T_max=19900),
]
train_cfg = dict(max_iters=20000, val_interval=2000)
default_hooks = dict(checkpoint=dict(interval=2000))
