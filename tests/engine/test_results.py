from types import SimpleNamespace

import numpy as np
import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mirl_mm.engine.hooks import ResultsHook


def said(hook_point: str, loop: object, metrics: dict | None) -> list[tuple[str, dict]]:
    messages = []
    logger = SimpleNamespace(info=lambda text, extra: messages.append((text, extra)))
    runner = SimpleNamespace(_train_loop=loop, logger=logger)
    getattr(ResultsHook(), hook_point)(runner, metrics)
    return messages


def loop(kind: type, **counts) -> object:
    made = object.__new__(kind)
    vars(made).update(counts)
    return made


METRICS = {
    'accuracy/top1': 71.23456,
    'coco/bbox_mAP': np.float32(0.125),
    'mIoU': torch.tensor(12.5),
    'confusion': np.eye(3),
    'names': 'a',
}


def test_one_line_for_the_terminal():
    ((text, extra),) = said('after_val_epoch', loop(EpochBasedTrainLoop, _epoch=3), METRICS)
    assert text == 'epoch 3  accuracy/top1: 71.23  coco/bbox_mAP: 0.125  mIoU: 12.5'
    assert extra == {'for_terminal': True}


def test_where_it_was_measured():
    assert said('after_val_epoch', loop(IterBasedTrainLoop, _iter=70), dict(a=1)) == [
        ('iteration 70  a: 1', {'for_terminal': True})
    ]
    assert said('after_val_epoch', dict(max_epochs=3), dict(a=1))[0][0] == 'validation  a: 1'
    assert said('after_test_epoch', None, dict(a=1))[0][0] == 'test  a: 1'


def test_nothing_without_numbers():
    assert said('after_test_epoch', None, None) == []
    assert said('after_test_epoch', None, dict(names='a')) == []
