"""Mixed precision without rounded boxes in mmdet's two-stage detectors."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mirl_mm.models.segments import unwrapped


@HOOKS.register_module()
class Float32BoxesHook(Hook):
    """Under autocast, what neck and RPN give is float32; what they compute is not changed.

    mmcv's RoIAlign has no bfloat16. And MMDetection makes the anchors, from which proposals are
    decoded, in the dtype of the RPN's scores: bfloat16 has steps of 4 pixels from 512 on.
    """

    def before_run(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        for name in ('neck', 'rpn_head'):
            part = getattr(model, name, None)
            if part is not None and _cast not in part._forward_hooks.values():
                part.register_forward_hook(_cast)


def _cast(module: nn.Module, inputs: tuple, outputs: tuple) -> tuple:
    return in_float32(outputs)


def in_float32(values: Tensor | tuple | list) -> Tensor | tuple | list:
    """The same tensors, in the same tuples and lists, those of lower precision as float32."""
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() and values.itemsize < 4 else values
    return type(values)(in_float32(value) for value in values)
