# UperNet on DINOv2's ViTs: patches of 14 px, positions of 518 px (37 x 37 patches), layer scale.
# The maps have strides of 3.5 to 28 px; the heads take maps of any stride. Images are 518 px, so
# that positions are used as they are in training, and maps cover the image exactly.
#  * Registers: --cfg-options model.backbone.num_registers=4, for the weights that have them.
_base_ = './upernet.py'

model = dict(
    data_preprocessor=dict(size=(518, 518)),
    backbone=dict(img_size=518, patch_size=14, layer_scale_init_value=1e-5),
    test_cfg=dict(crop_size=(518, 518), stride=(345, 345)),
)
