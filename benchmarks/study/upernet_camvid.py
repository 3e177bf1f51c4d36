# UperNet on CamVid behind mirl_camvid.py's encoder or from scratch, 600 iterations of 8.
# Command: python tools/train.py benchmarks/study/upernet_camvid.py --work-dir DIR \
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 8 on one process. As dense_transfer's, without validation: tested once, at the
# end. The grid sets the seed, the length and which images have labels.
_base_ = ['../dense_transfer/upernet_camvid.py']

model = dict(backbone=dict(img_size=192))
train_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = None
val_cfg = None
val_evaluator = None
max_iters = 600
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=30, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=200, max_keep_ckpts=2))
