"""What a config says about the cost of its runs."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.config import Config

from mirl_mm.errors import UserError
from mirl_mm.measure.cost import Operation
from mirl_mm.measure.memory import StepMemory

PLANNED = ('MIRL', 'MAE', 'ImageClassifier')  # and whatever has a roi_head or a decode_head
OPTIMIZER_BYTES = {'AdamW': 8, 'Adam': 8, 'SGD': 4, 'LARS': 4, 'Lamb': 8}  # of a parameter's state


class Model(NamedTuple):
    """A model's config, and how it is rehearsed."""

    cfg: Mapping
    dtype: torch.dtype
    image_size: tuple[int, int] | None
    scope: str

    @property
    def dense(self) -> bool:
        """Whether it detects or segments."""
        return 'roi_head' in self.cfg or 'decode_head' in self.cfg

    @property
    def sizes(self) -> dict:
        """Arguments of :func:`rehearsal.build` beside the config."""
        return dict(image_size=self.image_size, scope=self.scope)


def recipe_batch(cfg: Config, path: str) -> int:
    """The recipe's effective batch; ValueError for a config that is no training run."""
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise UserError(f'{path} cannot be planned: it has no {", ".join(missing)}')
    kind = str(cfg.model.get('type')).rpartition('.')[2]
    if kind not in PLANNED and not {'roi_head', 'decode_head'} & cfg.model.keys():
        raise UserError(
            f'{path} cannot be planned: {kind} is not one of {", ".join(PLANNED)}, and has neither '
            'a roi_head nor a decode_head'
        )
    effective = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not effective:
        raise UserError(
            f'{path} cannot be planned: auto_scale_lr.base_batch_size, the batch that the recipe '
            'is meant for, is not in it'
        )
    return effective


def model_of(cfg: Config, image_size: tuple[int, int] | None = None) -> Model:
    """The model as it is trained; image_size (height, width) overrides what the config says.

    Raises:
        ValueError: a detector whose images are not cropped to one size, and no image_size.
    """
    dtype = torch.float32
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        dtype = getattr(torch, cfg.optim_wrapper.get('dtype', 'float16'))
    model = Model(cfg.model, dtype, image_size, cfg.get('default_scope', 'mmpretrain'))
    if not model.dense or image_size is not None:
        return model
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    for transform in cfg.train_dataloader.dataset.get('pipeline', ()):
        size = transform.get('crop_size', size)
    if size is None:
        raise UserError(
            'how large are the training images? The config crops them to no size of its own: give '
            'image_size (--image-size HEIGHT WIDTH)'
        )
    return model._replace(image_size=tuple(size))


def optimizer_bytes(cfg: Config, gpus: int) -> float:
    """Bytes of state for each trainable parameter; ValueError for an optimizer it does not know."""
    optimizer = cfg.optim_wrapper.get('optimizer', {})
    kind, share = optimizer.get('type'), 1
    if kind == 'ZeroRedundancyOptimizer':
        kind, share = optimizer.get('optimizer_type'), gpus
    if kind not in OPTIMIZER_BYTES:
        raise UserError(
            f'the memory of the optimizer {kind!r} is not known; known are '
            f'{", ".join(OPTIMIZER_BYTES)}'
        )
    return OPTIMIZER_BYTES[kind] / share


def averages(cfg: Config) -> bool:
    """Whether the run keeps averaged weights."""
    return any('EMAHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or ())


def other_bytes(cfg: Config, memory: StepMemory, gpus: int) -> float:
    """What training holds beside the step itself: DDP's buckets and the averaged weights."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    buckets = gpus > 1 and not wrapper.get('gradient_as_bucket_view', True)  # tools/train.py's own
    return buckets * memory.gradients + averages(cfg) * memory.parameters


def update(cfg: Config, memory: StepMemory) -> Operation:
    """An update as one kernel.

    The guard reads and writes gradients, the optimizer reads them and changes weights and state,
    and averaged weights are read beside the weights and written.
    """
    moved = 2 * memory.gradients + memory.gradients + 2 * (memory.gradients + memory.optimizer)
    return Operation('update', 0, moved + 3 * averages(cfg) * memory.parameters)
