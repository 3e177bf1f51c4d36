"""A label that is no class stops training and validation with its file's name."""

import pytest
import torch
from mmengine.structures import PixelData

from mirl_mm.engine.hooks.data import CheckLabelsHook, check_labels
from tests.models.downstream import CLASSES, upernet


def sample(values: list[int], **meta):
    from mmseg.structures import SegDataSample

    found = SegDataSample(metainfo=dict(seg_map_path='masks/a.png', **meta))
    found.gt_sem_seg = PixelData(data=torch.tensor(values).reshape(1, 1, -1))
    return found


def test_classes_and_the_ignored_value_pass():
    from mmseg.structures import SegDataSample

    check_labels([sample([0, 1, 2, 255]), SegDataSample()], num_classes=3, ignored=255)


def test_other_values_are_named():
    with pytest.raises(ValueError, match=r'the mask masks/a\.png has the label 3, 254; accepted'):
        check_labels([sample([0]), sample([254, 3, 3, 255])], num_classes=3, ignored=255)
    with pytest.raises(ValueError, match=r'label 255; accepted are 0 to 2, for the 3 classes'):
        check_labels([sample([255])], num_classes=3, ignored=100)
    with pytest.raises(ValueError, match=r'label 149 \(after 0 became the ignored one\)'):
        check_labels([sample([149], reduce_zero_label=True)], num_classes=149, ignored=255)


class Runner:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_the_hook_takes_the_numbers_of_the_model(stage):
    hook, runner = CheckLabelsHook(), Runner(upernet())
    before = getattr(hook, f'before_{stage}_iter')
    before(runner, batch_idx=0, data_batch=dict(data_samples=[sample([0, CLASSES - 1, 255])]))
    with pytest.raises(ValueError, match=f'label {CLASSES}; accepted are 0 to {CLASSES - 1}'):
        before(runner, batch_idx=0, data_batch=dict(data_samples=[sample([CLASSES])]))


def test_models_without_a_decode_head_are_left_alone():
    before = CheckLabelsHook().before_train_iter
    before(Runner(torch.nn.Linear(1, 1)), batch_idx=0, data_batch=dict(data_samples=[None]))
