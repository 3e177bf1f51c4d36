# Pre-training on Tiny-ImageNet-100 at 64 px on a CPU: 5 epochs of 35,000 images, without labels;
# k-NN on labelled ones beside it. Length, batch and rate are our choice.
_base_ = [
    '../../../configs/_base_/default_runtime.py',
    '../../../configs/_base_/pretrain_cpu.py',
    './images.py',
]

train_dataloader = dict(batch_size=32, dataset=dict(type='UnlabelledImages'))
optim_wrapper = dict(optimizer=dict(lr=6e-3 * 32 / 256))
param_scheduler = [  # by iterations: 1,093 an epoch
    dict(type='LinearLR', start_factor=1e-9, by_epoch=False, begin=0, end=400),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=400, end=5465, T_max=5065),
]
train_cfg = dict(type='ExactEpochLoop', max_epochs=5)

default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1, max_keep_ckpts=1), panel=None
)
auto_scale_lr = dict(base_lr=6e-3 * 32 / 256, base_batch_size=32, enable=False)
custom_hooks = [
    dict(type='ExportEncoderHook'),
    dict(
        type='KNNHook',
        train='data/tiny_imagenet_100/train',
        val='data/tiny_imagenet_100/val',
        interval=1,
        at_start=True,
        ks=(10, 20),
        limit=20,
        num_workers=1,
    ),
]
