# UperNet with narrow heads for patches of 8 px: three taps at strides of 4, 8 and 16 px. A config
# adds the arch, out_indices, the classes and the checkpoint. Pictures are tested whole.
_base_ = './upernet.py'

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(img_size=64, patch_size=8),
    neck=dict(in_channels=64, strides=(8, 16, 32)),  # sixteenths of a patch
    decode_head=dict(in_channels=[64] * 3, in_index=[0, 1, 2], channels=64),
    auxiliary_head=dict(in_channels=64, channels=64),
    test_cfg=dict(_delete_=True, mode='whole'),
)
