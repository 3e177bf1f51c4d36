# Continued pre-training of an encoder alone, under new decoders, over 100 epochs: the encoder's
# rate rises over 20 epochs, beside the warm-up of 5 for all, so that the decoders have learned
# something before their gradients move it. Lengths are ours, not measured at this size.
_base_ = './pretrain_300e.py'

optim_wrapper = dict(paramwise_cfg=dict(part='backbone'))
param_scheduler = [
    dict(
        type='PartLinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
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
