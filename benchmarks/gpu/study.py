"""One run of the depth study: an encoder of any depth, pre-trained by MIRL or MAE, and its row.

The size is that of S-54 made narrow: heads of 32 features, 6 segments, decoders as wide as the
encoder with one block each; MAE's decoder has 8 blocks of the same width, as in configs/mae. Both
methods see the same images, crops and masks' noise in the same order.

Shapes: B batch, K blocks, P pools (cls, avg), D width.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from benchmarks.images import Labelled, normalised, random_crops
from benchmarks.study.grid import UNTRAINED, WARM_UP
from benchmarks.study.measure import held_out_error
from benchmarks.study.rows import form
from mirl_mm.measure.features import POOLS, block_features
from mirl_mm.measure.knn import knn_accuracy
from mirl_mm.measure.linear import ridge_correct

HEAD_DIM, SEGMENTS, MAE_BLOCKS = 32, 6, 8


class Setting(NamedTuple):
    """What all runs of a study share."""

    width: int
    side: int  # pixels
    patch: int
    batch: int
    epochs: int
    device: str
    neighbours: int = 20


def model_of(method: str, depth: int, setting: Setting) -> nn.Module:
    """A model in training mode, drawn from torch's random numbers."""
    width, patches = setting.width, (setting.side // setting.patch) ** 2
    heads = max(width // HEAD_DIM, 1)
    arch = dict(embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=4 * width)
    backbone = dict(arch=arch, img_size=setting.side, patch_size=setting.patch)
    decoder = dict(
        embed_dim=width,
        decoder_embed_dim=width,
        decoder_num_heads=heads,
        patch_size=setting.patch,
    )
    if method == 'mirl':
        cfg = dict(
            type='MIRL',
            backbone=dict(type='MIRLViT', num_segments=SEGMENTS, **backbone),
            neck=dict(type='MIRLNeck', num_segments=SEGMENTS, decoder_depth=1, **decoder),
            head=dict(type='MIRLHead', patch_size=setting.patch),
        )
    else:
        cfg = dict(
            type='MAE',
            backbone=dict(type='MAEViT', mask_ratio=0.75, **backbone),
            neck=dict(
                type='MAEPretrainDecoder',
                decoder_depth=MAE_BLOCKS,
                num_patches=patches,
                **decoder,
            ),
            head=dict(
                type='MAEPretrainHead',
                norm_pix=True,
                patch_size=setting.patch,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'),
            ),
        )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    model.init_weights()
    model.to(setting.device)
    model.train()
    return model


def optimizer_of(model: nn.Module, batch: int) -> torch.optim.Optimizer:
    """The official recipe's AdamW: 1.5e-4 for 256 images, no decay of biases and 1-D parameters."""
    wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(
            type='AdamW', lr=rate_of(batch), betas=(0.9, 0.95), weight_decay=0.05, fused=True
        ),
        constructor='MergedOptimWrapperConstructor',
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    )
    return build_optim_wrapper(model, wrapper).optimizer


def rate_of(batch: int) -> float:
    return 1.5e-4 * batch / 256


def share_of_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    warm_up = WARM_UP * steps
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def train(
    model: nn.Module,
    images: Tensor,
    setting: Setting,
    seed: int,
    stop: int | None = None,
    watch: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> int:
    """Pre-train in bfloat16; the steps made.

    Args:
        model: from :func:`model_of`.
        images: [N, 3, S, S] uint8, on the device.
        setting: of the study.
        seed: of the order, the crops and the masks.
        stop: steps after which to stop, for a measurement.
        watch: gets every step and its loss, unread.
    """
    device, batch = setting.device, setting.batch
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = optimizer_of(model, batch)
    rate = optimizer.param_groups[0]['lr']
    per_epoch = len(images) // batch
    steps = per_epoch * setting.epochs
    order = torch.empty(0)
    for step in range(min(steps, stop or steps)):
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=generator, device=device)
        place = step % per_epoch * batch
        chosen = images[order[place : place + batch]]
        for group in optimizer.param_groups:
            group['lr'] = rate * share_of_rate(step, steps)
        imgs = normalised(random_crops(chosen, generator))  # not under autocast: places are float32
        with torch.autocast(device, torch.bfloat16):
            loss = model.loss(imgs, None)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch(step, loss.detach())
    return min(steps, stop or steps)


@torch.no_grad()
def accuracies(
    vit: nn.Module, train: Labelled, val: Labelled, setting: Setting, batch: int = 500
) -> dict[str, list[float]]:
    """``knn20`` and ``ridge`` behind every block, in percent, on the average of the patches."""
    average = POOLS.index('avg')
    features = []
    for part in (train, val):
        found = [
            block_features(vit, normalised(part.images[i : i + batch]), range(vit.num_layers))
            for i in range(0, len(part.images), batch)
        ]
        features.append(torch.cat([each[:, :, average].half() for each in found]))  # [N, K, D]
    knn, ridge = [], []
    for block in range(vit.num_layers):
        four = (features[0][:, block], train.labels, features[1][:, block], val.labels)
        k = setting.neighbours
        knn.append(knn_accuracy(*four, ks=[k], device=setting.device)[k])
        with torch.device(setting.device):  # its sums of products too
            ridge.append(100 * float(ridge_correct(*four)[0].double().mean()))
    return dict(knn20=[round(v, 2) for v in knn], ridge=[round(v, 2) for v in ridge])


def row(
    method: str, depth: int, seed: int, train_set: Labelled, val_set: Labelled, setting: Setting
) -> dict:
    """A whole run, and what it came to.

    Args:
        method: ``mirl``, ``mae``, or ``untrained``: MIRL's encoder as it was drawn.
        depth: blocks.
        seed: of weights, order, crops and masks.
        train_set: images to train on; their labels are for the probes.
        val_set: held out.
        setting: of the study.
    """
    torch.manual_seed(seed)
    model = model_of('mirl' if method == UNTRAINED else method, depth, setting)
    losses: list[Tensor] = []
    began, steps = time.perf_counter(), 0
    if method != UNTRAINED:
        steps = train(model, train_set.images, setting, seed, watch=lambda _, x: losses.append(x))
        last = torch.stack(losses[-len(train_set.images) // setting.batch :]).mean().item()
    seconds = time.perf_counter() - began  # reading the loss has waited for the device
    model.eval()
    found = accuracies(model.backbone, train_set, val_set, setting)
    epochs = setting.epochs if steps else 0
    what = dict(
        run=f'gpu-{method}-{depth}-{epochs}e-s{seed}',
        grid='gpu',
        method=method,
        depth=depth,
        width=setting.width,
        data='tiny-imagenet-100',
        epochs=epochs,
        batch=setting.batch,
        rate=rate_of(setting.batch),
        seed=seed,
    )
    if steps:
        found |= dict(
            steps=steps,
            images_per_s=round(steps * setting.batch / seconds, 1),
            seconds=round(seconds, 1),
            last_loss=round(last, 5),
            held_out_error=round(held_out_error(model, val_set.images), 5),
        )
    return form(what, found)
