# ImageNet-1k images without their labels. Any folder works, in any nesting, or a list of files
# (paths relative to the folder):
#   --data /my/pictures, which is short for
#   --cfg-options train_dataloader.dataset.data_root=/my/pictures \
#     train_dataloader.dataset.data_prefix= [train_dataloader.dataset.ann_file=list.txt]
# On a network file system, pack it once (tools/pack_images.py) and give data_root=packed://FOLDER.
data_root = 'data/imagenet/'

# One transform for LoadAnyImage, RandomResizedCrop(backend='pillow', interpolation='bicubic') and
# RandomFlip: the same boxes and flips at twice the speed (docs/data.md). Those three still work.
train_pipeline = [
    dict(type='LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), flip_prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
)

# tools/test.py: reconstruction error on held-out images. For the same during training, set
# val_dataloader = test_dataloader, val_evaluator = test_evaluator, val_cfg = dict().
test_dataloader = dict(
    batch_size=256,
    num_workers=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='UnlabelledImages', data_root=data_root, data_prefix='val', pipeline=test_pipeline
    ),
)
test_evaluator = dict(type='ReconstructionError')
test_cfg = dict()
