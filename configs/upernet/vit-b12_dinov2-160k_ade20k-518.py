# UperNet, DINOv2 ViT-B/14: 160,000 iterations on ADE20K at 518 px.
# Command: tools/dist_train.sh configs/upernet/vit-b12_dinov2-160k_ade20k-518.py 8
# Needs: the encoder of facebook/dinov2-base as weights/dinov2-b.pth (docs/vit-you-have.md):
#   python tools/convert_checkpoint.py dinov2-base/ weights/dinov2-b.pth
# With registers: convert dinov2-with-registers-base/, and --cfg-options \
#   model.backbone.num_registers=4 model.backbone.init_cfg.checkpoint=FILE
# Effective batch: 2 x 8 GPUs = 16 (8 GPUs of 16 GB, estimated; smaller ones: docs/dense.md).
# Published: paper number not available. To beat: 48.1 mIoU: MAE ViT-B at 512 px (arXiv 2111.06377).
# Layer decay and drop path: those of MAE ViT-B in mmseg. Ours for these weights, not tuned.
# Taps: the last block of each quarter of the depth.
_base_ = [
    '../_base_/mmseg_runtime.py',
    '../_base_/upernet_dinov2.py',
    '../_base_/ade20k_160k-518px.py',
]
_encoder = dict(checkpoint='weights/dinov2-b.pth')
model = dict(
    backbone=dict(arch='b12', out_indices=(2, 5, 8, 11), drop_path_rate=0.1, init_cfg=_encoder),
    neck=dict(in_channels=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
