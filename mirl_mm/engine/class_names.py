"""The classes that a checkpoint was trained on, against those of the data that it meets."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mirl_mm.datasets.class_folders import quoted


def class_names(meta: Mapping | None) -> list[str]:
    """The names in a dataset's metainfo, or in a checkpoint's meta; empty where there are none."""
    meta = meta if isinstance(meta, Mapping) else {}
    meta = meta['dataset_meta'] if isinstance(meta.get('dataset_meta'), Mapping) else meta
    names = next((meta[key] for key in ('classes', 'CLASSES') if meta.get(key) is not None), ())
    return [names] if isinstance(names, str) else [str(name) for name in names]


def other_names(there: Sequence[str], here: Sequence[str]) -> str:
    """How the classes of a checkpoint and of the data differ, their order apart; '' if not."""
    if sorted(there) == sorted(here):
        return ''
    sides = (there, here, 'the checkpoint'), (here, there, 'the data')
    only = [(where, [n for n in own if n not in other]) for own, other, where in sides]
    told = ' and '.join(f'{quoted(names)} only in {where}' for where, names in only if names)
    numbers = f'{len(there)} in the checkpoint, {len(here)} in the data'
    return f'the classes differ ({numbers}): {told or "some names are there twice"}'


def follow_names(model: nn.Module, there: Sequence[str], here: Sequence[str]) -> None:
    """Make predictions of a model trained on the classes ``there`` those of the order ``here``."""
    to_here = torch.tensor([here.index(name) for name in there])
    of_there = torch.tensor([there.index(name) for name in here])

    def mapped(module: nn.Module, args: tuple, kwargs: dict, output: object) -> object:
        mode = kwargs.get('mode', args[2] if len(args) > 2 else None)
        for sample in output if mode == 'predict' else ():
            for parts, name, places in _LABELLED:
                part = sample.get(parts) if parts else sample
                if part is None or name not in part:
                    continue
                value: Tensor = part.get(name)
                if places == 'labels':
                    value = to_here.to(value.device)[value.long()].to(value.dtype)
                elif len(value) == len(here):
                    value = value[of_there.to(value.device)]
                part.set_field(value, name)
        return output

    model.register_forward_hook(mapped, with_kwargs=True)


# Where the samples of mmpretrain, mmdet and mmseg have labels, or scores [C, ...] by class.
_LABELLED = (
    ('', 'pred_label', 'labels'),
    ('', 'pred_score', 'scores'),
    ('pred_instances', 'labels', 'labels'),
    ('pred_sem_seg', 'data', 'labels'),
    ('seg_logits', 'data', 'scores'),
)
