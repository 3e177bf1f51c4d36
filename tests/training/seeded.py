"""Parts for runs whose losses do not depend on how images are spread over processes."""

import json
from pathlib import Path

import torch.distributed as dist
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS

from mirl_mm.models import MIRL
from mirl_mm.models.masking import fixed_noise


@MODELS.register_module()
class MIRLWithFixedMasks(MIRL):
    """Masks every image by its name, as in validation."""

    def loss(self, inputs, data_samples, **kwargs):
        noise = fixed_noise(inputs, data_samples, self.backbone.patch_size)
        return dict(loss=self.reconstruct(inputs, noise).loss)


@HOOKS.register_module()
class RecordLosses(Hook):
    """Writes the loss of every iteration, averaged over the processes, and the final weights."""

    def __init__(self, path: str) -> None:
        self.path, self.losses = Path(path), []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        self.losses.append(loss.item())

    def after_train(self, runner):
        if is_main_process():
            norms = {n: p.norm().item() for n, p in runner.model.named_parameters()}
            norms = {name.removeprefix('module.'): value for name, value in norms.items()}
            self.path.write_text(json.dumps(dict(losses=self.losses, norms=norms)))
