"""MMEngine's Runner with a readable terminal, and batches for which the host does not wait.

A copy that blocks drains the device's queue. MMEngine's preprocessors block unless told otherwise,
mmpretrain's for classifiers and mmseg's cannot be told, and all of them index on the device with
lists and tensors of the host. One place for all, instead of a subclass of each, keeps configs as
they are and mmdet and mmseg out of the imports.
"""

import logging

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.data import IterableDataset

from mirl_mm.errors import UserError

from .optim import gathered_state

FOR_TERMINAL = {'for_terminal': True}  # ``extra`` of a logger call: the terminal shows it, too
# Of ``default_hooks``, those that MMEngine adds by itself, unless they are None.
OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
NOISE = (
    'is skipped since its requires_grad',  # a line for every frozen parameter
    '"FileClient" will be deprecated',  # MMEngine's own use, as the next
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',  # of MMSegmentation's own config
)
# Those that swap the channels of [..., 3, H, W] first (mmseg writes PreProcessor); no subclasses.
SWAPPING = [f'{kind}datapreprocessor' for kind in ('img', 'selfsup', 'det', 'seg')]
SWITCHES = ('_channel_conversion', 'channel_conversion')  # the latter: MMSegmentation 1.2's


def belongs_on_terminal(record: logging.LogRecord) -> bool:
    """Warnings but NOISE, marked messages, and LoggerHook's metrics of a validation or test."""
    if any(part in str(record.msg) for part in NOISE):
        return False
    metrics = record.funcName in ('after_val_epoch', 'after_test_epoch')
    marked = getattr(record, 'for_terminal', metrics and record.module == 'logger_hook')
    return record.levelno >= logging.WARNING or marked


@RUNNERS.register_module()
class MIRLRunner(Runner):
    """MMEngine's Runner, whose thousands of start-up lines go to the log file alone.

    Any hook of ``default_hooks`` can be switched off with None. Processes end together: the first
    may hold what the others are still talking to. Hooks ``settle`` before a checkpoint: they read
    what waits to be read. They ``flush`` at the end, whatever it is: what waits is written.
    """

    def train(self) -> nn.Module:
        try:
            model = super().train()
        finally:
            self.call_hook('flush')
        barrier()
        return model

    def test(self) -> dict:
        metrics = super().test()
        barrier()
        return metrics

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:  # a FileHandler is a subclass
                handler.addFilter(belongs_on_terminal)
        return logger

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        built = super().build_model(model)
        copy_ahead(built.data_preprocessor)
        return built

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        return with_batches(super().build_train_loop(loop), 'train_dataloader')

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        return with_batches(super().build_val_loop(loop), 'val_dataloader')

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        return with_batches(super().build_test_loop(loop), 'test_dataloader')

    def build_param_scheduler(self, scheduler: list | dict) -> list | dict:
        built = super().build_param_scheduler(scheduler)
        if getattr(self.optim_wrapper, '_accumulative_counts', 1) > 1:
            self.optim_wrapper._global_step = 0  # else MMEngine warns that the update comes later
        return built

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        kept = {n: hook for n, hook in (hooks or {}).items() if hook is not None or n in OWN_HOOKS}
        super().register_default_hooks(kept)

    def save_checkpoint(self, *args, **kwargs) -> None:
        self.call_hook('settle')
        with gathered_state(self.optim_wrapper):
            super().save_checkpoint(*args, **kwargs)


def with_batches(loop: BaseLoop, key: str) -> BaseLoop:
    """The loop; UserError where its loader, ``key`` in a config, gives no batch."""
    loader, processes = loop.dataloader, get_world_size()
    batches = getattr(loader, 'batch_sampler', None)
    endless = isinstance(getattr(batches, 'sampler', batches), InfiniteSampler)
    if batches is None or isinstance(loader.dataset, IterableDataset):
        return loop
    images = len(loader.dataset)
    if not images or (len(loader) == 0 and not endless):
        per = loader.batch_size or batches.batch_size
        fewer = f'{images} images, fewer than batch {per} x processes {processes}'
        how = f'set {key}.batch_size={max(images // processes, 1)} or less, or drop_last=False'
        raise UserError(f'{key} gives no batch: it has {fewer}; {how}')
    return loop


def copy_ahead(preprocessor: nn.Module) -> None:
    """From now on, a preprocessor waits for no copy, and gives the same numbers."""
    if isinstance(preprocessor, BaseDataPreprocessor):
        preprocessor._non_blocking = True
    if type(preprocessor) is ClsDataPreprocessor:
        preprocessor.register_forward_pre_hook(_labels_ahead, with_kwargs=True)
        if preprocessor.batch_augments is not None:
            preprocessor.batch_augments = _PermutedAhead(preprocessor.batch_augments)
    elif type(preprocessor).__name__.lower() in SWAPPING:
        for switch in SWITCHES:
            if getattr(preprocessor, switch, False):
                setattr(preprocessor, switch, False)
                preprocessor.register_forward_pre_hook(_swapped_ahead, with_kwargs=True)


def _swapped_ahead(preprocessor: BaseDataPreprocessor, args: tuple, kwargs: dict) -> tuple:
    """RGB for BGR or the other way round; other numbers of channels stay."""
    given = dict(zip(('data', 'training'), args, strict=False)) | kwargs
    inputs = preprocessor.cast_data(given['data']['inputs'])
    inputs = tree_map(lambda imgs: imgs.flip(-3) if imgs.shape[-3] == 3 else imgs, inputs)
    return (), given | dict(data=dict(given['data'], inputs=inputs))


def _labels_ahead(preprocessor: ClsDataPreprocessor, args: tuple, kwargs: dict) -> None:
    """Labels in one copy; where images have one each, their one-hot scores as well."""
    samples = (args[0] if args else kwargs['data']).get('data_samples')
    if not samples or not isinstance(samples[0], DataSample) or 'gt_label' not in samples[0]:
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


class _PermutedAhead(TorchFunctionMode):
    """Mix a batch; ``torch.randperm`` draws on the CPU as ever, and gives it on the device."""

    def __init__(self, augment) -> None:
        super().__init__()
        self.augment = augment

    def __call__(self, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        self.device = inputs.device
        with self:
            return self.augment(inputs, scores)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result.to(self.device, non_blocking=True) if func is torch.randperm else result
