"""Before each batch of a segmentor: are all labels classes?"""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.errors import UserError


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Refuse masks with values that are neither a class nor the ignored one.

    Without it such a value stops training somewhere inside the loss (on a GPU with an assertion of
    the device), and counts as nothing in validation. It looks at masks before they go to the GPU.

    Raises:
        ValueError: it names the file, the values and the classes.
    """

    def _check(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, 'decode_head', None)
        head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
        if head is not None and data_batch:
            check_labels(data_batch['data_samples'], head.num_classes, head.ignore_index)

    before_train_iter = before_val_iter = before_test_iter = _check


def check_labels(samples: Sequence, num_classes: int, ignored: int) -> None:
    """ValueError for a mask of `samples` with a value outside 0..num_classes-1 and `ignored`."""
    for sample in samples:
        if 'gt_sem_seg' not in sample:
            continue
        labels = sample.gt_sem_seg.data.numpy()
        wrong = labels[(labels >= num_classes) & (labels != ignored)]
        if not wrong.size:
            continue
        values = ', '.join(str(value) for value in np.unique(wrong)[:5])
        file = sample.metainfo.get('seg_map_path', sample.metainfo.get('img_path'))
        zero = ' (after 0 became the ignored one)' if sample.get('reduce_zero_label') else ''
        raise UserError(
            f'the mask {file} has the label {values}{zero}; accepted are 0 to {num_classes - 1}, '
            f'for the {num_classes} classes of the model, and {ignored}, which is ignored'
        )
