"""Averaged weights, all of them at once, and without a look at the device."""

import torch
from mmengine.model import MomentumAnnealingEMA
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class ForeachEMA(MomentumAnnealingEMA):
    """MMEngine's MomentumAnnealingEMA with the same values, args and checkpoints.

    MMEngine averages weight by weight and reads the buffer ``steps`` for each. Here the host counts
    along.
    """

    count = 0  # what `steps` holds

    def load_state_dict(self, *args, **kwargs) -> object:
        result = super().load_state_dict(*args, **kwargs)
        self.count = self.steps.item()
        return result

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [(own, source[name].to(own.device)) for name, own in self.avg_parameters.items()]
        if self.count == 0:
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        elif self.count % self.interval == 0:
            pairs = [pair for pair in pairs if pair[0].is_floating_point()]
            momentum = max(self.momentum, self.gamma / (self.gamma + self.count))
            torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), momentum)
        if not self.update_buffers:
            for own, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
                own.copy_(buffer)
        self.steps += 1
        self.count += 1
