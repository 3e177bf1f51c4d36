# MIRL, ViT-S (12 blocks), 300 epochs on ImageNet-1k.
# Command: tools/dist_train.sh configs/mirl/vit-s12_300e.py 8
# Effective batch: 512 x 8 GPUs = 4096 (our split for 80 GB GPUs, not measured).
# Published: nothing found for this arch.
# The published constructor cannot be built: 4 segments (the paper's figure), decoders our choice.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/mirl.py',
    '../_base_/pretrain_in1k.py',
    '../_base_/pretrain_300e.py',
]

model = dict(
    backbone=dict(arch='s12'),
    neck=dict(
        embed_dim=384, num_segments=4, decoder_embed_dim=384, decoder_depth=2, decoder_num_heads=16
    ),
)
train_dataloader = dict(batch_size=512)
