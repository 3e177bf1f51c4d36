"""bfloat16 against float32: losses of two trainings, and gradients at the same weights.

Two copies of a model start from the same weights and see the same images and masks. One trains in
float32, the other under autocast to bfloat16. Every so often the gradients of both precisions are
taken at the float32 model's weights.
"""

import copy
import statistics

import torch
from torch import Tensor, nn

from mirl_mm.models.segments import parameter_segments
from tests.models.build import images

from .device import exact_float32
from .pretrain import built
from .stage import Bench

LR = 3e-4
POOL = 16  # batches of images that come again and again


def compare(bench: Bench, arch: str, batch: int, steps: int, every: int) -> dict:
    """Losses of all steps in both precisions; deviations of gradients by segment."""
    exact_float32()
    torch.manual_seed(0)
    model = built(arch, bench, [], init=True)['mirl']
    models = {torch.float32: model, torch.bfloat16: copy.deepcopy(model)}
    optimizers = {
        dtype: torch.optim.AdamW(trained(each), lr=LR, betas=(0.9, 0.95), weight_decay=0.05)
        for dtype, each in models.items()
    }
    side = model.backbone.img_size[0]
    pool = [images(batch, side, seed=seed).to(bench.device) for seed in range(min(POOL, steps))]
    losses: dict[torch.dtype, list[float]] = {dtype: [] for dtype in models}
    deviations: dict[str, list[dict]] = {}
    for step in range(steps):
        imgs = pool[step % len(pool)]
        exact = gradient(model, imgs, torch.float32, step)
        losses[torch.float32].append(exact)
        if step % every == every - 1:
            kept = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
            gradient(model, imgs, torch.bfloat16, step)
            for label, found in by_segment(model, kept).items():
                deviations.setdefault(label, []).append(found)
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.grad = kept[name]
        losses[torch.bfloat16].append(gradient(models[torch.bfloat16], imgs, torch.bfloat16, step))
        for optimizer in optimizers.values():
            optimizer.step()
    apart = [abs(a - b) / a for a, b in zip(*losses.values(), strict=True)]
    middle = {
        label: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for label, found in deviations.items()
    }
    worst = max(middle, key=lambda label: middle[label]['relative'])
    ends = [statistics.mean(each[-every:]) for each in losses.values()]
    return dict(
        steps=steps,
        losses=[[round(loss, 5) for loss in each] for each in losses.values()],
        loss_apart=dict(median=statistics.median(apart), largest=max(apart)),
        last_losses=[round(loss, 5) for loss in ends],
        gradients=middle,
        says=f'{arch}, {steps} steps: losses {max(apart):.1e} apart at most, {ends[0]:.4f} and '
        f'{ends[1]:.4f} at the end; gradients {middle[worst]["relative"]:.1e} apart in {worst}, '
        'the worst segment',
    )


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient(model: nn.Module, imgs: Tensor, dtype: torch.dtype, seed: int) -> float:
    """Gradients under the masks of a seed; returns the loss."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    with torch.autocast(imgs.device.type, dtype, enabled=dtype != torch.float32):
        loss = model.loss(imgs)['loss']
    loss.backward()
    return loss.item()


def by_segment(model: nn.Module, exact: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """By segment: distance of the model's gradients from the exact ones over their norm; cosine."""
    labels, parts = parameter_segments(model), {}
    for name, parameter in model.named_parameters():
        if name in exact:
            pairs = parts.setdefault(labels[name], ([], []))
            pairs[0].append(parameter.grad.flatten())
            pairs[1].append(exact[name].flatten())
    found = {}
    for label, pair in parts.items():
        half, full = (torch.cat(each).double() for each in pair)
        found[label] = dict(
            relative=((half - full).norm() / full.norm()).item(),
            cosine=torch.nn.functional.cosine_similarity(half, full, dim=0).item(),
        )
    return found
