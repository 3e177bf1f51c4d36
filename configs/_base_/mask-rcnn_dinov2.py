# Mask R-CNN on DINOv2's ViTs: patches of 14 px, positions of 518 px, layer scale. The maps of the
# pyramid then have 7/8 of the usual strides, 3.5 to 56 px, and the weights stay as they are: mmdet
# computes anchors and regions from strides that need not be whole. (Resampling the patch projection
# to 16 px would keep the usual ones, and change what every block was trained on.)
#  * pad_size_divisor=1036 makes every image 74 x 74 patches (images have at most 1024 px), so that
#    each map covers the image exactly.
#  * Windows of 37 patches, the grid that the positions are for: two a side, and none is cut off.
#    Ours; ViTDet's 14 leaves a rest of 4 here.
#  * Anchors have the sizes of the usual strides (32 to 512 px); which level a region is pooled from
#    follows the cells, as usual: finest_scale is 7/8 of mmdet's 56.
#  * Registers: --cfg-options model.backbone.num_registers=4, for the weights that have them.
_base_ = './mask-rcnn.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=1036),
    backbone=dict(img_size=518, patch_size=14, window_size=37, layer_scale_init_value=1e-5),
    rpn_head=dict(
        anchor_generator=dict(strides=[3.5, 7, 14, 28, 56], base_sizes=[4, 8, 16, 32, 64])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28], finest_scale=49),
        mask_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28], finest_scale=49),
    ),
)
