# UperNet, MAE ViT-L: 160,000 iterations on ADE20K at 512 px.
# Command: tools/dist_train.sh configs/upernet/vit-l24_mae-160k_ade20k-512.py 8
# Needs: MAE's encoder as weights/mae-l.pth (docs/vit-you-have.md):
#   python tools/convert_checkpoint.py mae_pretrain_vit_large.pth weights/mae-l.pth --arch l24
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 24 GB, estimated; smaller ones: docs/dense.md).
# Published: 53.6 mIoU (arXiv 2111.06377), with relative positions and layer scale, which are not
#   here. To beat: 53.6 mIoU.
# Rate, layer decay, drop path and taps: those of MAE ViT-L in github.com/lxtGH/CAE. The first
#   layer's rate is 0.65^25 = 0.00002 of the last one's.
_base_ = ['../_base_/mmseg_runtime.py', '../_base_/upernet.py', '../_base_/ade20k_160k.py']
_encoder = dict(checkpoint='weights/mae-l.pth')
model = dict(
    backbone=dict(arch='l24', out_indices=(7, 11, 15, 23), drop_path_rate=0.2, init_cfg=_encoder),
    neck=dict(in_channels=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4), paramwise_cfg=dict(layer_decay_rate=0.65))
auto_scale_lr = dict(base_lr=4e-4)
