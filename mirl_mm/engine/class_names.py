"""The classes that a checkpoint was trained on, against those of the data that it meets."""

from collections.abc import Sequence

import torch
from torch import nn

from mirl_mm.datasets.class_folders import quoted

# Where the samples of mmpretrain, mmdet and mmseg have labels, or scores [C, ...] by class.
_LABELS = (('', 'pred_label'), ('pred_instances', 'labels'), ('pred_sem_seg', 'data'))
_SCORES = (('', 'pred_score'), ('seg_logits', 'data'))


def compare_names(there: Sequence[str], here: Sequence[str]) -> tuple[str, bool]:
    """How the classes of a checkpoint and of the data differ, and whether in order alone.

    Empty where they are equal, or one of the two does not tell them.
    """
    if not there or not here or list(there) == list(here):
        return '', False
    if sorted(there) == sorted(here):
        orders = f'{quoted(there)} in the checkpoint, {quoted(here)} in the data'
        return f'the classes are in another order: {orders}', True
    sides = (there, here, 'the checkpoint'), (here, there, 'the data')
    only = [(where, [n for n in own if n not in other]) for own, other, where in sides]
    told = ' and '.join(f'{quoted(names)} only in {where}' for where, names in only if names)
    numbers = f'{len(there)} in the checkpoint, {len(here)} in the data'
    return f'the classes differ ({numbers}): {told or "some names are there twice"}', False


def follow_names(model: nn.Module, there: Sequence[str], here: Sequence[str]) -> None:
    """Make predictions of a model trained on the classes ``there`` those of the order ``here``."""
    to_here = torch.tensor([here.index(name) for name in there])
    of_there = torch.tensor([there.index(name) for name in here])

    def mapped(module: nn.Module, args: tuple, kwargs: dict, output: object) -> object:
        mode = kwargs.get('mode', args[2] if len(args) > 2 else None)
        for sample in output if mode == 'predict' else ():
            for parts, name in _LABELS + _SCORES:
                part = sample.get(parts) if parts else sample
                if part is not None and name in part:
                    value = part.get(name)
                    if (parts, name) in _LABELS:
                        part.set_field(to_here.to(value.device)[value.long()], name)
                    elif len(value) == len(here):
                        part.set_field(value[of_there], name)
        return output

    model.register_forward_hook(mapped, with_kwargs=True)
