# UperNet, MIRL ViT-S-54: 160,000 iterations on ADE20K at 512 px.
# Command: tools/dist_train.sh configs/upernet/vit-s54_160k_ade20k-512.py 8
# Needs: the pre-trained encoder, work_dirs/vit-s54_800e/encoder.pth (another: configs/README.md).
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 24 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 48.1 mIoU: MAE ViT-B (arXiv 2111.06377; mmseg's
#   configs/mae: 48.13); it has the size of ViT-B.
# Layer decay: the first layer's rate is 0.9^55 = 0.0030 of the last one's, near that of MAE's
#   ViT-B (0.65^13 = 0.0037); drop path: that of ViT-B, whose size it has. Ours, not tuned.
# Taps: the last block of each quarter of the depth.
_base_ = ['../_base_/mmseg_runtime.py', '../_base_/upernet.py', '../_base_/ade20k_160k.py']
_encoder = dict(checkpoint='work_dirs/vit-s54_800e/encoder.pth')
model = dict(
    backbone=dict(arch='s54', out_indices=(13, 26, 40, 53), drop_path_rate=0.1, init_cfg=_encoder),
    neck=dict(in_channels=384),
    decode_head=dict(in_channels=[384] * 4, channels=384),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
