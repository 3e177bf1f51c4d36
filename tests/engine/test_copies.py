"""Preprocessors that wait for nothing: the same numbers, and no copy that blocks.

Steps run on the meta device, which has no values, so that to ask for one is an error.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirl_mm.engine.copies import SWITCHES, copy_ahead
from tests.host_reads import caller
from tests.test_host_reads import RUNS

CONFIGS = Path(__file__).parents[2] / 'configs'


def config_of(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / RUNS[name])
    if name == 'mask-rcnn':  # the encoder's own size
        cfg.model.data_preprocessor.pad_size_divisor = 64
        cfg.model.backbone.window_size = 3
    if name == 'upernet':
        cfg.model.data_preprocessor.size = (64, 64)
    init_default_scope(cfg.default_scope)
    return cfg


def batch_of(name: str, labels=((0,), (3,), (1,), (3,))) -> dict:
    """Four pictures as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    imgs = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    if name in ('mirl', 'mae'):
        return dict(inputs=imgs, data_samples=[DataSample() for _ in imgs])
    if name in ('finetune', 'linear'):
        return dict(inputs=imgs, data_samples=[DataSample().set_gt_label([*one]) for one in labels])
    if name == 'upernet':
        from mmseg.structures import SegDataSample as Sample

        target = dict(gt_sem_seg=PixelData(data=torch.ones(1, 64, 64, dtype=torch.long)))
    else:
        from mmdet.structures import DetDataSample as Sample
        from mmdet.structures.mask import BitmapMasks

        box = dict(bboxes=torch.tensor([[1.0, 2, 30, 40]]), labels=torch.tensor([2]))
        masks = BitmapMasks(np.ones((1, 64, 64), np.uint8), 64, 64)
        target = dict(gt_instances=InstanceData(masks=masks, **box))
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    samples = [Sample(metainfo=meta, **copy.deepcopy(target)) for _ in imgs]
    return dict(inputs=[*imgs], data_samples=samples)


def numbers(given: dict) -> list:
    """All tensors of a preprocessor's result."""
    tensors = [given['inputs']]
    for sample in given['data_samples']:
        for _, value in sorted(sample.items()):
            parts = [part for _, part in value.items()] if hasattr(value, 'items') else [value]
            tensors += [part for part in parts if isinstance(part, torch.Tensor)]
    return tensors


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', RUNS)
def test_the_same_numbers(name, training):
    """In both calls that there are; fine-tuning mixes and cuts, so several times."""
    model = MODELS.build(config_of(name).model)
    stock, ahead = model.data_preprocessor, copy.deepcopy(model.data_preprocessor)
    copy_ahead(ahead)
    for seed in range(6):
        labels = ((0,), (3, 1), (1,), (2,)) if seed == 5 else ((0,), (3,), (1,), (3,))
        results = []
        for call in (
            lambda data: stock(data, training),
            lambda data: ahead(data, training=training),
        ):
            np.random.seed(seed)
            torch.manual_seed(seed)
            results.append(numbers(call(batch_of(name, labels))))
        assert len(results[0]) >= 1 + 4 * (name not in ('mirl', 'mae'))
        for one, other in zip(*results, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


class Copies(TorchDispatchMode):
    """Names where something of the host is brought to the device and waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in given if each.dim() or 'copy' in str(func)}
        lands = isinstance(result, torch.Tensor) and result.device.type == 'meta'
        if 'cpu' in kinds and lands and not (kwargs or {}).get('non_blocking'):
            self.blocking.add(caller())
        return result


def blocking(name: str, ahead: bool) -> set[str]:
    """In the second pass forward and back, of what is ours."""
    with torch.device('meta'):
        model = MODELS.build(config_of(name).model)
    model._set_device(torch.device('meta'))
    if ahead:
        copy_ahead(model.data_preprocessor)  # (an index list, unseen here, is copied as well)
        assert not any(getattr(model.data_preprocessor, name, False) for name in SWITCHES)
    for _ in range(2):
        with Copies() as copies:
            data = model.data_preprocessor(batch_of(name), training=True)
            if name in ('mask-rcnn', 'upernet'):
                maps = model.extract_feat(data['inputs'])
                sum(each.sum() for each in maps).backward()
            else:
                losses = model._run_forward(data, mode='loss')
                model.parse_losses(losses)[0].backward()
    return copies.blocking


@pytest.mark.parametrize('name', RUNS)
def test_no_copy_blocks(name):
    assert blocking(name, ahead=True) == set()
    assert any('preprocessor' in place for place in blocking(name, ahead=False))
