# Classification on Tiny-ImageNet-100 at 64 px on a CPU: 35 of the 350 training images of each
# class, all 5,000 validation images; 3 epochs, the first of them warm-up.
_base_ = ['../../../configs/_base_/default_runtime.py', './images.py']

train_dataloader = dict(
    batch_size=50, dataset=dict(type='CustomDataset', indices=list(range(0, 35000, 10)))
)
val_dataloader = dict(
    batch_size=200,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root={{_base_.data_root}},
        data_prefix='val',
        pipeline={{_base_.test_pipeline}},
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(type='ExactEpochLoop', max_epochs=3, val_interval=3)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=3, max_keep_ckpts=1))
randomness = dict(seed=0, diff_rank_seed=True)
auto_scale_lr = dict(base_batch_size=50, enable=False)
