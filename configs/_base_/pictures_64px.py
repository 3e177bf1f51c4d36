# Own pictures of any size in crops of 64 px, without labels; `--data` says where they lie. Two
# processes read: pictures of 64 px need less than one, photographs of a camera more.
data_root = 'data/pictures/'

train_pipeline = [
    dict(type='LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.2, 1.0), flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=64, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages', data_root=data_root, data_prefix='val', pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='ReconstructionError')
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
