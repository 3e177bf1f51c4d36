"""Any number of channels: their normalisation, and a patch projection for them from RGB's."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor

from mirl_mm.errors import UserError


@MODELS.register_module()
def PerChannel(
    of: str, mean: Sequence[float], std: Sequence[float], **kwargs
) -> BaseDataPreprocessor:
    """The data preprocessor ``of`` a name, with one mean and deviation for each of C channels.

    Most take 1 or 3 alone. ``kwargs`` are its own. UserError: not as many, or no deviation.
    """
    if len(mean) != len(std) or not min(std, default=0) > 0:
        given = f'PerChannel: mean={list(mean)}, std={list(std)}'
        raise UserError(f'{given}; accepted are as many of both, and std above 0')
    built = MODELS.build(dict(kwargs, type=of, mean=[0.0], std=[1.0]))
    for name, values in (('mean', mean), ('std', std)):
        built.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
    return built


def for_channels(projection: Tensor, channels: int) -> Tensor:
    """A patch projection [D, 3, p, p] for RGB as one [D, C, p, p], by timm's rule.

    One channel is the sum over RGB, as of a grey picture; more repeat R, G, B, R, ... times 3 / C.
    """
    if not 1 <= channels != 3 == projection.shape[1]:
        accepted = 'accepted are weights for 3 and another number, from 1 on'
        raise UserError(f'{channels} channels of weights for {projection.shape[1]}; {accepted}')
    if channels == 1:
        return projection.sum(dim=1, keepdim=True)
    return projection.repeat(1, channels // 3 + 1, 1, 1)[:, :channels] * (3 / channels)
