# A two-epoch schedule that a CPU finishes in seconds: for tests and first tries.
_base_ = './pretrain_cpu.py'

optim_wrapper = dict(optimizer=dict(lr=1.5e-3 * 32 / 256))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=0,
        end=2,
        T_max=2,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=2, val_interval=1)

auto_scale_lr = dict(base_lr=1.5e-3 * 32 / 256, base_batch_size=32, enable=False)
custom_hooks = [dict(type='ExportEncoderHook')]
