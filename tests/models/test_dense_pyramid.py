"""MIRLPyramid against the same operations written out, and inside a detector and a segmentor."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mirl_mm.models import MIRLPyramid
from tests.models.downstream import CLASSES, WIDTH, mask_rcnn, upernet

STRIDES = (4, 8, 16, 32, 64)


def pyramid(**settings) -> MIRLPyramid:
    torch.manual_seed(0)
    neck = MIRLPyramid(8, **settings).double()
    for param in neck.parameters():
        nn.init.normal_(param, std=0.5)
    return neck


def maps(count: int, height: int = 3, width: int = 5) -> list[Tensor]:
    torch.manual_seed(1)
    shape = (2, 8, height, width)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    """LN over the channels of NCHW, written out."""
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    scale, shift = (each[:, None, None] for each in (layer.weight, layer.bias))
    return (x - mean) / (var + 1e-6).sqrt() * scale + shift


def up(x: Tensor, layer: nn.Module) -> Tensor:
    return F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)


def test_one_map_keeps_its_width():
    neck, (x,) = pyramid(strides=STRIDES), maps(1)
    four, eight, sixteen, thirty_two = neck.levels
    assert [type(layer).__name__ for layer in four] == [
        'ConvTranspose2d',
        'LayerNorm2d',
        'GELU',
        'ConvTranspose2d',
    ]
    assert len(sixteen) == 0 and not list(thirty_two.parameters())
    pooled = F.max_pool2d(x, 2, ceil_mode=True)
    expected = (
        up(F.gelu(norm(up(x, four[0]), four[1])), four[3]),
        up(x, eight[0]),
        x,
        pooled,
        pooled[:, :, ::2, ::2],
    )
    torch.testing.assert_close(neck([x]), expected)
    assert [each.shape[1:] for each in expected] == [
        (8, 12, 20),
        (8, 6, 10),
        (8, 3, 5),
        (8, 2, 3),
        (8, 1, 2),
    ]


def test_one_map_to_another_width_is_the_pyramid_of_vitdet():
    neck, (x,) = pyramid(out_channels=6, strides=STRIDES), maps(1)

    def out(x: Tensor, level: nn.Sequential) -> Tensor:
        """The last four layers of every level: 1x1 convolution, norm, 3x3 convolution, norm."""
        first, norm_1, second, norm_3 = level[-4:]
        assert (first.weight.shape[2:], second.weight.shape[2:]) == ((1, 1), (3, 3))
        x = norm(F.conv2d(x, first.weight), norm_1)
        return norm(F.conv2d(x, second.weight, padding=1), norm_3)

    four, eight, sixteen, thirty_two = neck.levels
    expected = [
        out(up(F.gelu(norm(up(x, four[0]), four[1])), four[3]), four),
        out(up(x, eight[0]), eight),
        out(x, sixteen),
        out(F.max_pool2d(x, 2, ceil_mode=True), thirty_two),
    ]
    expected.append(expected[-1][:, :, ::2, ::2])
    torch.testing.assert_close(neck([x]), tuple(expected))
    assert [tuple(four[i].weight.shape) for i in (0, 3, 4, 6)] == [
        (8, 4, 2, 2),
        (4, 2, 2, 2),
        (6, 2, 1, 1),
        (6, 6, 3, 3),
    ]
    assert tuple(eight[0].weight.shape) == (8, 4, 2, 2)


@pytest.mark.parametrize('out_channels', [None, 6])
def test_each_tap_feeds_its_own_level(out_channels):
    taps = maps(4)
    outs = pyramid(mode='taps', out_channels=out_channels, strides=STRIDES)(taps)
    sources = [0, 1, 2, 3, 3]  # stride 64 is taken from stride 32
    for level, source in enumerate(sources):
        single = pyramid(out_channels=out_channels, strides=STRIDES)([taps[source]])[level]
        torch.testing.assert_close(outs[level], single, rtol=0, atol=0)
        grads = torch.autograd.grad(
            outs[level].square().sum(), taps, allow_unused=True, retain_graph=True
        )
        assert [grad is not None for grad in grads] == [i == source for i in range(4)]


def test_a_part_of_the_strides():
    neck = pyramid(mode='taps', strides=(8, 32))
    x, y = maps(2)
    torch.testing.assert_close(
        neck((x, y)), (up(x, neck.levels[0][0]), F.max_pool2d(y, 2, ceil_mode=True))
    )


def test_the_default_norm_takes_one_tiny_image_in_training():
    neck = MIRLPyramid(8, 6)
    outs = neck.train()([torch.randn(1, 8, 1, 1)])
    assert [tuple(each.shape) for each in outs] == [(1, 6, n, n) for n in (4, 2, 1, 1)]
    assert all(each.isfinite().all() and each.std() > 0 for each in outs)
    assert not any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in neck.modules())
    sum(each.square().sum() for each in outs).backward()
    assert all(param.grad is not None for param in neck.parameters())


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
@pytest.mark.parametrize(
    ('norm_cfg', 'kind'),
    [
        (dict(type='BN'), nn.BatchNorm2d),
        (dict(type='GN', num_groups=2), nn.GroupNorm),
        (dict(type='LN2d', eps=1e-3), nn.LayerNorm),
    ],
)
def test_other_norms_from_any_library(scope, norm_cfg, kind):
    with DefaultScope.overwrite_default_scope(scope):
        neck = MODELS.build(
            dict(type='MIRLPyramid', in_channels=8, out_channels=4, norm_cfg=norm_cfg)
        )
    assert sum(isinstance(each, kind) for each in neck.modules()) == 9


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(mode='fpn'), "'simple' or 'taps', got 'fpn'"),
        (dict(strides=()), r'strides=\(\) does not fit'),
        (dict(strides=(8, 4)), 'ascending'),
        (dict(strides=(2, 4)), r'\(4, 8, 16, 32, 64\)'),
        (dict(strides=(4, 8, 16, 64)), '64 needs 32'),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        pyramid(**settings)


def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"mode='taps' .*takes 4 maps .*backbone gives 3"):
        pyramid(mode='taps')(maps(3))
    with pytest.raises(ValueError, match=r"mode='simple' .*takes 1 maps .*backbone gives 4"):
        pyramid()(maps(4))
    with pytest.raises(ValueError, match=r'in_channels=8; the backbone gives 1, of \[5\] channels'):
        pyramid()([torch.zeros(1, 5, 2, 2)])


# --- whole models ---------------------------------------------------------------------------------


def instances(height: int, width: int) -> dict:
    """Two images, each with two rectangles to find, as mmdet's data loader gives them."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    batch = dict(inputs=[], data_samples=[])
    for i in range(2):
        boxes = torch.tensor([[4 + 8 * i, 4, 40, 50], [50, 10, 90, 30]])
        masks = np.zeros((2, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        truth = InstanceData(
            bboxes=boxes.float(),
            labels=torch.tensor([i, CLASSES - 1]),
            masks=BitmapMasks(masks, height, width),
        )
        shape = (height, width)
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1)), gt_instances=truth
        )
        batch['inputs'].append(torch.randint(256, (3, height, width), dtype=torch.uint8))
        batch['data_samples'].append(sample)
    return batch


def assert_trains(model: nn.Module, batch: dict, losses: set[str]) -> None:
    """One forward and backward pass: the named losses are finite and reach every parameter."""
    torch.manual_seed(0)
    model.init_weights()
    results = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, logged = model.parse_losses(results)
    assert losses <= logged.keys()
    assert all(torch.as_tensor(value).isfinite() for value in logged.values())
    loss.backward()
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert without == []
    stem = model.backbone.patch_embed.projection.weight.grad
    assert stem.abs().max() > 0


@pytest.mark.parametrize('with_fpn', [False, True])
def test_mask_rcnn_trains_and_predicts(with_fpn):
    fpn = dict(type='FPN', in_channels=[WIDTH] * 4, out_channels=16, num_outs=5)
    neck = [dict(type='MIRLPyramid', in_channels=WIDTH), fpn] if with_fpn else None
    model = mask_rcnn(neck, window_size=2, with_cp=True, drop_path_rate=0.1)
    batch = instances(70, 100)
    losses = {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'}
    assert_trains(model, batch, losses)
    with torch.no_grad():
        results = model.eval().test_step(batch)
    assert [each.pred_instances.masks.shape[1:] for each in results] == [(70, 100)] * 2


def test_upernet_trains_and_predicts():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = upernet(window_size=2, final_norm=False)
    labels = torch.randint(CLASSES, (2, 1, 60, 90))
    shape = dict(img_shape=(60, 90), ori_shape=(60, 90))
    batch = dict(
        inputs=[*torch.randint(256, (2, 3, 60, 90), dtype=torch.uint8)],
        data_samples=[
            SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=label)) for label in labels
        ],
    )
    assert_trains(model, batch, {'decode.loss_ce', 'aux.loss_ce'})
    with torch.no_grad():
        result = model.eval().test_step(
            dict(inputs=batch['inputs'], data_samples=batch['data_samples'])
        )
    assert [tuple(each.pred_sem_seg.data.shape) for each in result] == [(1, 60, 90)] * 2
