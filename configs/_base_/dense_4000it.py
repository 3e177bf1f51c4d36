# 4,000 iterations of 8 for detectors and segmentors on some thousand own pictures: the recipe of
# dense_500it.py, longer. Rate, warm-up and length are our choice.
_base_ = './dense_500it.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=200, end=4000, T_max=3800),
]
train_cfg = dict(max_iters=4000, val_interval=1000)

auto_scale_lr = dict(base_batch_size=8)
