# UperNet, MIRL ViT-B: 160,000 iterations on ADE20K at 512 px.
# Command: tools/dist_train.sh configs/upernet/vit-b12_160k_ade20k-512.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b12_800e/encoder.pth (another: configs/README.md).
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 16 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 48.1 mIoU: MAE ViT-B (arXiv 2111.06377; mmseg's
#   configs/mae: 48.13).
# Layer decay and drop path: those of MAE ViT-B in mmseg.
# Taps: the last block of each quarter of the depth (MAE: 3, 5, 7, 11).
_base_ = ['../_base_/mmseg_runtime.py', '../_base_/upernet.py', '../_base_/ade20k_160k.py']
_encoder = dict(checkpoint='work_dirs/vit-b12_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b12', out_indices=(2, 5, 8, 11), drop_path_rate=0.1, init_cfg=_encoder),
    neck=dict(in_channels=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
