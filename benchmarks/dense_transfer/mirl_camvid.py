# MIRL on CamVid's 367 training images (480x360), without labels, in crops of 128 px.
# Command: python tools/train.py benchmarks/dense_transfer/mirl_camvid.py
# Effective batch: 64 on one process. Crops are enlarged up to 1.4 times or shrunk to a half, so
# that things have the size that they have in fine-tuning.
_base_ = ['./_base_/pretrain.py']
data_root = 'data/camvid/'

train_dataloader = dict(
    dataset=dict(
        type='UnlabelledImages',
        data_root=data_root,
        data_prefix='images/training',
        pipeline=[
            dict(type='LoadAnyImage'),
            dict(
                type='RandomResizedCrop',
                scale=128,
                crop_ratio_range=(0.05, 0.4),
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root, data_prefix='images/validation'))
