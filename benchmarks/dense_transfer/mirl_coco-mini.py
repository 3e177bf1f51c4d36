# MIRL on the 343 training images of coco_mini, each ten times, and the 35,000 of Tiny-ImageNet-100,
# without labels, in crops of 128 px.
# Command: python tools/train.py benchmarks/dense_transfer/mirl_coco-mini.py
# Effective batch: 64 on one process. The small photographs are enlarged to about the size that
# things have in a COCO image with a short edge of about 200 px.
_base_ = ['./_base_/pretrain.py']

train_dataloader = dict(
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                type='RepeatDataset',
                times=10,
                dataset=dict(
                    type='UnlabelledImages',
                    data_root='data/coco_mini/images/train',
                    pipeline=[
                        dict(type='LoadAnyImage'),
                        dict(
                            type='RandomResizedCrop',
                            scale=128,
                            crop_ratio_range=(0.08, 0.6),
                            backend='pillow',
                            interpolation='bicubic',
                        ),
                        dict(type='RandomFlip', prob=0.5),
                        dict(type='PackInputs'),
                    ],
                ),
            ),
            dict(
                type='UnlabelledImages',
                data_root='data/tiny_imagenet_100/train',
                pipeline=[
                    dict(type='LoadAnyImage'),
                    dict(
                        type='RandomResizedCrop',
                        scale=128,
                        crop_ratio_range=(0.4, 1.0),
                        backend='pillow',
                        interpolation='bicubic',
                    ),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PackInputs'),
                ],
            ),
        ],
    )
)
val_dataloader = dict(dataset=dict(data_root='data/coco_mini/images/val'))
