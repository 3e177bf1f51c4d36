# UperNet on a plain ViT, as mmseg's configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py:
# four taps rescaled to strides 4 to 32, UPerHead, an auxiliary FCN head on the third of them. A
# config adds the arch, out_indices, the widths, the number of classes and the checkpoint.
#  * BN in the heads becomes SyncBN where several GPUs train (sync_bn), and stays BN on one GPU or a
#    CPU. One image a process is too few for it: the pool of scale 1 leaves one value per channel.
#    Set the type of both heads' norm_cfg to mmpretrain.LN2d then. The pyramid has LN.
#  * All taps are without the encoder's final norm, as there.
#  * `slide` tests on crops of the training's size, as published. model.test_cfg.mode=whole takes an
#    image of any size and shape at once.
norm_cfg = dict(type='BN', requires_grad=True)
sync_bn = 'torch'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='MIRLDenseViT',
        img_size=224,
        patch_size=16,
        final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='MIRLPyramid', mode='taps', strides=(4, 8, 16, 32)),
    decode_head=dict(
        type='UPerHead',
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
tta_model = dict(type='SegTTAModel')  # averages what the views of tta_pipeline give
