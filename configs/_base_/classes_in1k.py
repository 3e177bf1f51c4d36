# ImageNet-1k in class folders, data/imagenet/{train,val}/<class>. A recipe adds batch, augmentation
# and schedule. Your own class folders: --data /my/data, which is short for
#   --cfg-options train_dataloader.dataset.type=CustomDataset \
#     train_dataloader.dataset.data_root=/my/data val_dataloader.dataset.type=CustomDataset \
#     val_dataloader.dataset.data_root=/my/data model.head.num_classes=N \
#     model.data_preprocessor.num_classes=N
data_root = 'data/imagenet/'

# Pillow reads more: every ending of a picture that is left out is named in the log.
_endings = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.pbm', '.pnm',
    '.tif', '.tiff', '.gif', '.jp2', '.avif',
)  # fmt: skip

test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root=data_root, data_prefix='train', extensions=_endings),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root=data_root,
        data_prefix='val',
        extensions=_endings,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
