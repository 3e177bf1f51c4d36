"""Batches reach the device, and the host does not wait for it.

A copy that blocks drains the device's queue. MMEngine's preprocessors block unless told otherwise,
mmpretrain's for classifiers and mmseg's cannot be told, and all of them index channels and images
on the device with lists and tensors of the host, which is a copy too.
"""

from functools import partial

import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.overrides import TorchFunctionMode


def copy_ahead(preprocessor: BaseDataPreprocessor) -> None:
    """From now on, what a preprocessor would wait for is done before it runs, without waiting.

    It then finds nothing left to do, and gives the same numbers, random ones included.
    """
    preprocessor._non_blocking = True
    swap = getattr(preprocessor, '_channel_conversion', False)
    if swap:
        preprocessor._channel_conversion = False
    preprocessor.register_forward_pre_hook(partial(_ahead, swap), with_kwargs=True)
    if isinstance(preprocessor, ClsDataPreprocessor) and preprocessor.batch_augments is not None:
        preprocessor.batch_augments = partial(_mixed, preprocessor.batch_augments)


def _ahead(swap: bool, preprocessor: BaseDataPreprocessor, args: tuple, kwargs: dict) -> tuple:
    given = dict(zip(('data', 'training'), args, strict=False)) | kwargs
    data = given['data']
    inputs = preprocessor.cast_data(data['inputs'])
    if swap:
        inputs = swapped(inputs) if isinstance(inputs, Tensor) else [swapped(i) for i in inputs]
    samples = data.get('data_samples')
    if isinstance(preprocessor, ClsDataPreprocessor) and samples:
        labels_ahead(preprocessor, samples)
    return (), given | dict(data=data | dict(inputs=inputs))


def swapped(imgs: Tensor) -> Tensor:
    """RGB for BGR or the other way round, [..., 3, H, W]; others stay."""
    return imgs.flip(-3) if imgs.shape[-3] == 3 else imgs


def labels_ahead(preprocessor: ClsDataPreprocessor, samples: list[DataSample]) -> None:
    """Labels in one copy; scores of one label each in one piece, as mmpretrain's one-hot ones."""
    if not isinstance(samples[0], DataSample) or 'gt_label' not in samples[0]:
        return
    lengths = [len(sample.gt_label) for sample in samples]
    labels = torch.cat([sample.gt_label for sample in samples])
    labels = labels.to(preprocessor.device, non_blocking=True)
    for sample, label in zip(samples, labels.split(lengths), strict=True):
        sample.set_gt_label(label)
    classes = preprocessor.num_classes or samples[0].get('num_classes')
    if preprocessor.to_onehot and classes and set(lengths) == {1} and 'gt_score' not in samples[0]:
        scores = labels.new_zeros(len(samples), classes).scatter_(1, labels[:, None], 1)
        for sample, score in zip(samples, scores, strict=True):
            sample.set_gt_score(score)


def _mixed(augment, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    with _PermutationAhead(inputs.device):
        return augment(inputs, scores)


class _PermutationAhead(TorchFunctionMode):
    """``torch.randperm`` draws on the CPU as ever, and its result is on the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result.to(self.device, non_blocking=True) if func is torch.randperm else result
