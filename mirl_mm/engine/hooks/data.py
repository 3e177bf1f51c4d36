"""What a batch may suffer from: unreadable images, labels of no class, boxes in low precision."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils._pytree import tree_map

from mirl_mm.errors import BadImagesError
from mirl_mm.models.segments import unwrapped

from ..checks.masks import name_masks, wrong_labels


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Say after every pass over the data how many images could not be read.

    For datasets that replace such images, as UnlabelledImages does. Each image is listed once in
    ``bad_images.txt`` of the work dir, with what is wrong with it. The limit that the dataset sets
    for a process holds here for all together: a pass after which there are more is an error.
    """

    before, replaced = 0, 0  # unreadable images and replacements known at the last report

    def before_train(self, runner: Runner) -> None:
        self.dataset, self.length = runner.train_dataloader.dataset, 0
        self.file = Path(runner.work_dir) / 'bad_images.txt'
        if hasattr(self.dataset, 'bad_images'):
            self.dataset.list_bad_images(self.file)
            self.length = len(runner.train_dataloader)

    def after_train_iter(self, runner: Runner, **_) -> None:
        """Behind a pass: count over all processes, log, and stop where there are too many."""
        done = runner.iter + 1
        if not self.length or (done % self.length and done != runner.max_iters):
            return
        images = len(self.dataset)
        found = all_gather_object((self.dataset.bad_images(), self.dataset.replaced()))
        bad = len(set().union(*(indices for indices, _ in found)))
        replaced = sum(number for _, number in found)
        runner.message_hub.update_scalar('train/bad_images', bad)
        if replaced > self.replaced:
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
            when = f'epoch {runner.epoch + 1}' if by_epoch else f'iteration {runner.iter + 1}'
            what = f'{replaced - self.replaced} images were replaced since they cannot be read'
            seen = f'{bad - self.before} of them new, {bad} of {images} ({bad / images:.2%}) so far'
            runner.logger.warning(f'{when}: {what}; {seen}, listed in {self.file}')
        self.before, self.replaced = bad, replaced
        if bad > self.dataset.limit:
            limit = f'the {self.dataset.limit} of {self.dataset.limit_name}: see {self.file}'
            raise BadImagesError(f'{bad} of {images} images cannot be read, more than {limit}')


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Refuse masks with values that are neither a class nor the ignored one, before each batch.

    Without it such a value stops training somewhere inside the loss (on a GPU with an assertion of
    the device), and counts as nothing in validation. It looks at masks before they go to the GPU.
    What else is wrong with a mask (unreadable, of another kind or size than its picture) ends the
    run with its name where it is loaded.
    """

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        name_masks(getattr(runner, f'{mode}_dataloader').dataset)

    def _check(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        head = getattr(unwrapped(runner.model), 'decode_head', None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        if head is not None and data_batch:
            samples = data_batch['data_samples']
            samples = samples[0] if isinstance(samples[0], list | tuple) else samples  # of views
            check_labels(samples, head.num_classes, head.ignore_index)

    before_train_iter = before_val_iter = before_test_iter = _check


def check_labels(samples: Sequence, num_classes: int, ignored: int) -> None:
    """UserError for a mask of `samples` with a value outside 0..num_classes-1 and `ignored`."""
    for sample in (each for each in samples if 'gt_sem_seg' in each):
        labels = sample.gt_sem_seg.data.numpy()
        wrong = labels[(labels >= num_classes) & (labels != ignored)]
        if not wrong.size:
            continue
        file = sample.metainfo.get('seg_map_path', sample.metainfo.get('img_path'))
        reduced = sample.get('reduce_zero_label')
        raise wrong_labels(file, np.unique(wrong).tolist(), num_classes, ignored, reduced)


@HOOKS.register_module()
class Float32BoxesHook(Hook):
    """Under autocast, what neck and RPN give is float32; what they compute is not changed.

    mmcv's RoIAlign has no bfloat16. And MMDetection makes the anchors, from which proposals are
    decoded, in the dtype of the RPN's scores: bfloat16 has steps of 4 pixels from 512 on.
    """

    def before_run(self, runner: Runner) -> None:
        for name in ('neck', 'rpn_head'):
            part = getattr(unwrapped(runner.model), name, None)
            if part is not None and in_float32 not in part._forward_hooks.values():
                part.register_forward_hook(in_float32)


def in_float32(module: nn.Module, inputs: tuple, outputs: tuple | list) -> tuple | list:
    """A forward hook: the same tensors in the same tuples and lists, low precision as float32."""
    return tree_map(lambda x: x.float() if x.is_floating_point() and x.itemsize < 4 else x, outputs)
