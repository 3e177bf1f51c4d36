"""What a run takes before it is started: parameters, operations, memory, batch, days.

Nothing is trained and no image is read. What is an estimate or an assumption is called that.

Shapes: L patches.
"""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import VisionTransformer

from mirl_mm.engine.adapt import accumulative_counts
from mirl_mm.engine.hooks.run_summary import parameter_rows
from mirl_mm.engine.launch import load_config

from .flops import forward_flops_per_image, linear_weights, training_flops_per_image
from .memory import CONTEXT, SHARE, StepMemory, step_memory, usable
from .peak_rate import TFLOPS

PLANNED = ('MIRL', 'MAE', 'ImageClassifier')
IMAGENET_IMAGES = 1_281_167
MFU = 0.4  # assumed share of the peak rate where no throughput is given
OPTIMIZER_BYTES = {'AdamW': 8, 'Adam': 8, 'SGD': 4, 'LARS': 4, 'Lamb': 8}  # of a parameter's state
GIGA = 1e9


class Batch(NamedTuple):
    """How the effective batch is made up."""

    per_gpu: int
    gpus: int
    accumulation: int

    @property
    def effective(self) -> int:
        return self.per_gpu * self.gpus * self.accumulation


class Speed(NamedTuple):
    """Images per second and GPU, and where the number comes from."""

    images: float
    source: str


class Plan(NamedTuple):
    """What :func:`plan` found out."""

    parameters: list[tuple[str, str]]
    training_flops: int  # of one image, forward and backward
    forward_flops: int
    linear_macs: int  # the encoder on a whole image, linear layers alone: as papers count
    memory: StepMemory
    extra_bytes: float  # beside the step's: context, DDP's buckets, the EMA's weights
    largest: int  # images per GPU
    batch: Batch
    recipe_batch: int
    updates: int
    images_seen: int
    length: str
    speed: Speed

    @property
    def peak_bytes(self) -> float:
        return self.memory.total(self.batch.per_gpu) + self.extra_bytes

    @property
    def days(self) -> float:
        return self.images_seen / (self.speed.images * self.batch.gpus) / 86400


def plan(
    config: str,
    gpus: int = 8,
    memory_gb: float = 80,
    throughput: float | None = None,
    images: int | None = None,
    gpu: str = 'A100',
    mfu: float = MFU,
    cfg_options: Mapping[str, object] | None = None,
) -> Plan:
    """Plan a pre-training, fine-tuning or linear-probe run.

    Args:
        config: path of the config file.
        gpus: how many, over all nodes.
        memory_gb: of each, in 10^9 bytes.
        throughput: measured images per second and GPU; None assumes one from `gpu` and `mfu`.
        images: in an epoch; None knows ImageNet-1k's.
        gpu: a name of ``peak_rate.TFLOPS``.
        mfu: assumed model FLOP utilisation: the share of the GPU's peak rate that the step reaches.
        cfg_options: as ``--cfg-options``.

    Raises:
        FileNotFoundError: no such config.
        ValueError: a number out of range, a config that cannot be trained or planned, a memory that
            no batch fits into.
    """
    check_numbers(gpus, memory_gb, throughput, images, gpu, mfu)
    cfg = load_config(config, cfg_options)
    recipe_batch = check_config(cfg, config)
    # Mixup and the like only fill the terminal here.
    parts = {
        key: cfg.model[key] for key in cfg.model if key not in ('data_preprocessor', 'train_cfg')
    }
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(parts)
    training = training_flops_per_image(model)
    memory = step_memory(parts, autocast_dtype(cfg), optimizer_bytes(cfg, gpus))
    extra = CONTEXT + other_bytes(cfg, memory, gpus)
    largest = memory.largest_batch(usable(memory_gb) - (extra - CONTEXT))
    if largest < 1:
        needed = (memory.total(1) + extra - CONTEXT) / SHARE + CONTEXT
        raise ValueError(
            f'no batch fits into {memory_gb:g} GB: one image per GPU takes about '
            f'{needed / GIGA:.2g} GB ({(memory.fixed + extra) / GIGA:.2g} of them for any batch). '
            'Less is needed with model.backbone.with_cp=True, where the encoder has it, or with '
            'the weights spread over the GPUs (FSDP)'
        )
    batch = divide(recipe_batch, gpus, largest)
    updates, seen, length = schedule(cfg, batch, images)
    return Plan(
        parameter_rows(model),
        training,
        forward_flops_per_image(model),
        linear_macs(model.backbone),
        memory,
        extra,
        largest,
        batch,
        recipe_batch,
        updates,
        seen,
        length,
        speed(throughput, gpu, mfu, training),
    )


def check_numbers(
    gpus: int,
    memory_gb: float,
    throughput: float | None,
    images: int | None,
    gpu: str,
    mfu: float,
) -> None:
    """ValueError for a number that is none of its kind."""
    positive = dict(gpus=gpus, memory_gb=memory_gb, throughput=throughput, images=images)
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f'{name} must be above 0, got {value:g}')
    if gpu not in TFLOPS:
        raise ValueError(f'unknown gpu {gpu!r}; known are {", ".join(TFLOPS)}')
    if not 0 < mfu <= 1:
        raise ValueError(f'mfu must be above 0 and at most 1, got {mfu:g}')


def check_config(cfg: Config, path: str) -> int:
    """The recipe's effective batch; ValueError for a config that is no training run."""
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise ValueError(f'{path} cannot be planned: it has no {", ".join(missing)}')
    kind = str(cfg.model.get('type')).rpartition('.')[2]
    if kind not in PLANNED:
        raise ValueError(f'{path} cannot be planned: {kind} is not one of {", ".join(PLANNED)}')
    effective = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not effective:
        raise ValueError(
            f'{path} cannot be planned: auto_scale_lr.base_batch_size, the batch that the recipe '
            'is meant for, is not in it'
        )
    return effective


def autocast_dtype(cfg: Config) -> torch.dtype:
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        return torch.float32
    return getattr(torch, cfg.optim_wrapper.get('dtype', 'float16'))


def optimizer_bytes(cfg: Config, gpus: int) -> float:
    """Bytes of state for each trainable parameter; ValueError for an optimizer it does not know."""
    optimizer = cfg.optim_wrapper.get('optimizer', {})
    kind, share = optimizer.get('type'), 1
    if kind == 'ZeroRedundancyOptimizer':
        kind, share = optimizer.get('optimizer_type'), gpus
    if kind not in OPTIMIZER_BYTES:
        raise ValueError(
            f'the memory of the optimizer {kind!r} is not known; known are '
            f'{", ".join(OPTIMIZER_BYTES)}'
        )
    return OPTIMIZER_BYTES[kind] / share


def other_bytes(cfg: Config, memory: StepMemory, gpus: int) -> float:
    """What training holds beside the step itself: DDP's buckets and the EMA's weights."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    buckets = gpus > 1 and not wrapper.get('gradient_as_bucket_view', True)  # tools/train.py's own
    ema = any(hook.get('type') == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
    return buckets * memory.gradients + ema * memory.parameters


def linear_macs(vit: VisionTransformer) -> int:
    """Multiply-adds of a whole image in the encoder's linear layers, attention's products left out.

    Papers print these as GFLOPs: 18.8 for ViT-S-54 and 67.0 for ViT-B-48.
    """
    patches = vit.patch_resolution[0] * vit.patch_resolution[1]
    blocks = sum(linear_weights(block) for block in vit.layers)
    return patches * vit.patch_embed.projection.weight.numel() + (patches + 1) * blocks


def divide(effective: int, gpus: int, largest: int) -> Batch:
    """The fewest accumulated steps that reach the effective batch, exactly if that is possible."""
    fewest = max(1, ceil(effective / (gpus * largest)))
    for accumulation in range(fewest, 2 * fewest + 1):
        if effective % (gpus * accumulation) == 0:
            return Batch(effective // (gpus * accumulation), gpus, accumulation)
    return Batch(max(1, min(largest, round(effective / (gpus * fewest)))), gpus, fewest)


def schedule(cfg: Config, batch: Batch, images: int | None) -> tuple[int, int, str]:
    """Updates, images seen by all GPUs together, and the length in words."""
    if 'max_iters' in cfg.train_cfg:
        iterations = cfg.train_cfg.max_iters
        updates = iterations // accumulative_counts(cfg)
        return updates, updates * batch.effective, f'{updates:,} updates'
    if images is None:
        root = str(cfg.train_dataloader.dataset.get('data_root', ''))
        if 'imagenet' not in root:
            raise ValueError(f'how many images are in {root!r}? Give images (--images)')
        images = IMAGENET_IMAGES
    epochs, per_step = cfg.train_cfg.max_epochs, batch.per_gpu * batch.gpus
    steps = images // per_step if cfg.train_dataloader.get('drop_last') else ceil(images / per_step)
    if steps == 0:
        raise ValueError(f'{images:,} images are fewer than the {per_step:,} of one step')
    updates = epochs * ceil(steps / batch.accumulation)
    return updates, epochs * steps * per_step, f'{epochs:,} epochs of {images:,} images'


def speed(throughput: float | None, gpu: str, mfu: float, training_flops: int) -> Speed:
    """The given rate, or what the GPU would do at the assumed utilisation."""
    if throughput is not None:
        return Speed(throughput, 'as given')
    rate = TFLOPS[gpu] * 1e12 * mfu / training_flops
    return Speed(rate, f'ASSUMED, not measured: {mfu:.0%} of {gpu} at {TFLOPS[gpu]:g} TFLOP/s')
