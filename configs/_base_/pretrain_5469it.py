# 5,469 iterations of 64, 350,000 images seen, however many pictures there are: as long as the runs
# of benchmarks/study of 10 epochs of 35,000, at the rate that its search chose. Warm-up over 40/300
# of the length, as in the official recipe. Another train_cfg.max_iters wants another schedule: the
# run's first lines have the options that fit it.
_base_ = ['./default_runtime.py', './pretrain_cpu.py']

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=729),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=729, end=5469, T_max=4740),
]
train_cfg = dict(type='ExactIterLoop', max_iters=5469, val_interval=500)

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=None,
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_lr=2e-3, base_batch_size=64, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
