# MIRL on the 12-block test arch, 2 epochs from an encoder alone, under new decoders: seconds on a
# CPU. The encoder's rate rises over the first epoch.
# Command: python tools/train.py configs/mirl/vit-test_2e_encoder.py
# Effective batch: 32 on one process.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_scenes.py',
    '../_base_/pretrain_2e.py',
]

model = dict(
    backbone=dict(
        arch='test',
        img_size=64,
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/vit-test_2e/encoder.pth', prefix='backbone.'
        ),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(part='backbone'))
param_scheduler = [
    dict(
        type='PartLinearLR',
        start_factor=1e-9,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
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
