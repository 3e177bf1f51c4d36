"""Detectors under bfloat16: float32 maps for RoIAlign, float32 anchors."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData

from mirl_mm.engine.hooks.data import Float32BoxesHook, in_float32
from tests.models.downstream import mask_rcnn


def test_nested_tensors_are_cast_and_others_left():
    half, long = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.long)
    double = torch.ones(2, dtype=torch.float64)
    nested = ([half, (long, double)], half.half())
    (first, (second, third)), fourth = in_float32(torch.nn.Identity(), (), nested)
    assert [x.dtype for x in (first, second, third, fourth)] == [
        torch.float32,
        torch.long,
        torch.float64,
        torch.float32,
    ]
    assert second is long and third is double


def batch():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = dict(img_shape=(96, 128), batch_input_shape=(96, 128), pad_shape=(96, 128))
    sample = DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0), ori_shape=(96, 128)))
    mask = torch.zeros(1, 96, 128, dtype=torch.uint8)
    mask[:, 20:70, 30:90] = 1
    boxes, labels = torch.tensor([[30.0, 20, 90, 70]]), torch.tensor([1])
    masks = BitmapMasks(mask.numpy(), 96, 128)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=masks)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
    return torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)), [sample]


def dtypes_of(model) -> set[torch.dtype]:
    """What the anchors of the proposals are made in."""
    seen, make = set(), model.rpn_head.prior_generator.grid_priors

    def grid_priors(*args, **kwargs):
        made = make(*args, **kwargs)
        seen.update(priors.dtype for priors in made)
        return made

    model.rpn_head.prior_generator.grid_priors = grid_priors
    return seen


def test_a_mask_rcnn_trains_in_bfloat16():
    torch.manual_seed(0)
    with (
        torch.autocast('cpu', dtype=torch.bfloat16),
        pytest.raises((RuntimeError, NotImplementedError), match='BFloat16'),
    ):
        mask_rcnn().loss(*batch())
    model = mask_rcnn()
    seen = dtypes_of(model)
    hook, runner = Float32BoxesHook(), SimpleNamespace(model=model)
    hook.before_run(runner)
    hook.before_run(runner)  # of a test after training
    assert len(model.neck._forward_hooks) == len(model.rpn_head._forward_hooks) == 1
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(*batch())
        loss, _ = model.parse_losses(losses)
    loss.backward()
    assert seen == {torch.float32}
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())


def test_float32_is_left_alone():
    torch.manual_seed(0)
    model = mask_rcnn().eval()
    imgs, _ = batch()
    before = model.rpn_head(model.extract_feat(imgs))
    Float32BoxesHook().before_run(SimpleNamespace(model=model))
    after = model.rpn_head(model.extract_feat(imgs))
    for maps, others in zip(before, after, strict=True):
        assert all(map(torch.equal, maps, others))


def test_other_models_are_left_alone():
    Float32BoxesHook().before_run(SimpleNamespace(model=torch.nn.Linear(1, 1)))
