# pretrain_300e.py over 800 epochs. The official command says --epochs 801.
_base_ = './pretrain_300e.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=40,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.0,
        by_epoch=True,
        begin=40,
        end=800,
        T_max=760,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=800)
