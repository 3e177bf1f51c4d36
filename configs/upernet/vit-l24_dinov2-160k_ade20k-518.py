# UperNet, DINOv2 ViT-L/14: 160,000 iterations on ADE20K at 518 px.
# Command: tools/dist_train.sh configs/upernet/vit-l24_dinov2-160k_ade20k-518.py 8
# Needs: the encoder of facebook/dinov2-large as weights/dinov2-l.pth (docs/vit-you-have.md):
#   python tools/convert_checkpoint.py dinov2-large/ weights/dinov2-l.pth
# With registers: convert dinov2-with-registers-large/, and --cfg-options \
#   model.backbone.num_registers=4 model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 24 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 53.6 mIoU: MAE ViT-L at 512 px (arXiv 2111.06377).
# Layer decay: the first layer's rate is 0.8^25 = 0.0038 of the last one's, as in MAE's ViT-B
#   (0.65^13 = 0.0037); drop path: that of MAE's ViT-L. Ours for these weights, not tuned.
# Taps: the last block of each quarter of the depth.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet_dinov2.py',
    '../_base_/ade20k_160k-518px.py',
]
_encoder = dict(checkpoint='weights/dinov2-l.pth')
model = dict(
    backbone=dict(arch='l24', out_indices=(5, 11, 17, 23), drop_path_rate=0.2, init_cfg=_encoder),
    neck=dict(in_channels=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
