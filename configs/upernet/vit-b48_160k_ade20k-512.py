# UperNet, MIRL ViT-B-48: 160,000 iterations on ADE20K at 512 px.
# Command: tools/dist_train.sh configs/upernet/vit-b48_160k_ade20k-512.py 8
# Needs: the pre-trained encoder, work_dirs/vit-b48_800e/encoder.pth (another: configs/README.md).
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 40 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 53.6 mIoU: MAE ViT-L (arXiv 2111.06377); it has
#   the size of ViT-L.
# Layer decay: the first layer's rate is 0.9^49 = 0.0057 of the last one's, near that of MAE's
#   ViT-B (0.65^13 = 0.0037); drop path: that of MAE's ViT-L, whose size it has. Ours, not tuned.
# Taps: the last block of each quarter of the depth.
_base_ = ['../_base_/mmseg_runtime.py', '../_base_/upernet.py', '../_base_/ade20k_160k.py']
_encoder = dict(checkpoint='work_dirs/vit-b48_800e/encoder.pth')
model = dict(
    backbone=dict(arch='b48', out_indices=(11, 23, 35, 47), drop_path_rate=0.2, init_cfg=_encoder),
    neck=dict(in_channels=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
