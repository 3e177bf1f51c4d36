# As mirl_camvid.py, half of the images from Tiny-ImageNet-100 (64 px, enlarged): a second source.
# Command: python tools/train.py benchmarks/study/mirl_camvid-tiny.py
# Effective batch: 64 on one process. CamVid's 367 images come 95 times beside the 35,000.
_base_ = ['./mirl_camvid.py']

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='RepeatDataset',
                times=95,
                dataset=dict(
                    type='UnlabelledImages',
                    data_root='data/camvid/',
                    data_prefix='images/training',
                    pipeline={{_base_.train_dataloader.dataset.pipeline}},
                ),
            ),
            dict(
                type='UnlabelledImages',
                data_root='data/tiny_imagenet_100/',
                data_prefix='train',
                pipeline=[
                    dict(
                        type='LoadRandomResizedCrop',
                        scale=192,
                        crop_ratio_range=(0.2, 1.0),
                        flip_prob=0.5,
                    ),
                    dict(type='PackInputs'),
                ],
            ),
        ],
    )
)
