# Continued pre-training: the official recipe over 100 epochs, with a warm-up of 5. Length and
# warm-up are ours, not measured at this size; rate and optimizer are those of pretrain_300e.py.
_base_ = './pretrain_300e.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=5,
        end=100,
        T_max=95,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=100)
