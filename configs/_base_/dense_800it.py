# 800 iterations of 4, the demo's: the recipe of dense_500it.py, longer.
_base_ = './dense_500it.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=50, end=800, T_max=750),
]
train_cfg = dict(max_iters=800, val_interval=800)
