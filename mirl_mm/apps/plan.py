"""What a run takes before it is started: parameters, operations, memory, batch, time.

Nothing is trained and no image is read. What is an estimate or a floor is called that.
"""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from torch import nn

from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import accumulative_counts
from mirl_mm.engine.run_facts import parameter_rows
from mirl_mm.errors import UserError
from mirl_mm.measure.cost import Cost, cost
from mirl_mm.measure.flops import Flops, flops_per_image
from mirl_mm.measure.memory import CONTEXT, PROBES, SHARE, StepMemory, probe, usable
from mirl_mm.measure.peak_rate import GPUS
from mirl_mm.measure.rehearsal import build

from .plan_config import (
    Model,
    model_of,
    optimizer_bytes,
    other_bytes,
    recipe_batch,
    update,
)

IMAGENET_IMAGES = 1_281_167
OTHERS = ('A100', 'H100', 'H200', 'L40S', 'RTX 4090')  # told beside the one that is asked for
DENSE_PROBES = (2, 4)  # images are larger; one is too few for batch norm
GIGA = 1e9


class Batch(NamedTuple):
    """How the effective batch is made up."""

    per_gpu: int
    gpus: int
    accumulation: int

    @property
    def effective(self) -> int:
        return self.per_gpu * self.gpus * self.accumulation


class Run(NamedTuple):
    """The planned run on one kind of GPU."""

    gpu: str
    memory_gb: float
    largest: int  # images per GPU
    batch: Batch
    updates: int
    images_seen: int
    step: Cost  # of an iteration, without the update
    rate: float  # images per second and GPU

    @property
    def days(self) -> float:
        return self.images_seen / (self.rate * self.batch.gpus) / 86400


class Plan(NamedTuple):
    """What :func:`plan` found out."""

    model: Model
    parameters: list[tuple[str, str]]
    flops: Flops  # of one image
    linear_macs: int  # the encoder on a whole image, linear layers alone: as papers count
    memory: StepMemory
    extra_bytes: float  # beside the step's: context, DDP's buckets, averaged weights
    recipe_batch: int
    length: str
    measured: bool  # whether the rate was given
    run: Run
    others: list[Run]  # the same on other GPUs

    @property
    def peak_bytes(self) -> float:
        return self.memory.total(self.run.batch.per_gpu) + self.extra_bytes


def plan(
    config: str,
    gpus: int = 8,
    gpu: str = 'A100',
    memory_gb: float | None = None,
    throughput: float | None = None,
    images: int | None = None,
    image_size: tuple[int, int] | None = None,
    cfg_options: Mapping[str, object] | None = None,
) -> Plan:
    """Plan a training run.

    Args:
        config: path of the config file.
        gpus: how many, over all nodes.
        gpu: a name of ``peak_rate.GPUS``.
        memory_gb: of each, in 10^9 bytes; None takes the data sheet's.
        throughput: measured images per second and GPU; None takes the most that the GPU can do.
        images: in an epoch; None knows ImageNet-1k's.
        image_size: (height, width) in training, pixels; None takes the config's.
        cfg_options: as ``--cfg-options``.

    Raises:
        FileNotFoundError: no such config.
        ValueError: a number out of range, a config that cannot be trained or planned, a memory that
            no batch fits into.
    """
    check_numbers(gpus, gpu, memory_gb, throughput, images, image_size)
    cfg = load_config(config, cfg_options)
    effective, model = recipe_batch(cfg, config), model_of(cfg, image_size)
    batches = DENSE_PROBES if model.dense else PROBES
    probed = probe(model.cfg, batches, dtype=model.dtype, **model.sizes)
    memory = probed.memory(optimizer_bytes(cfg, gpus))
    extra = CONTEXT + other_bytes(cfg, memory, gpus)

    def run(name: str, gb: float) -> Run:
        batch = divide(effective, gpus, largest := largest_batch(memory, extra, gb))
        updates, seen, _ = schedule(cfg, batch, images)
        step = cost(probed.operations(batch.per_gpu), GPUS[name])
        seconds = (
            batch.accumulation * step.seconds + cost([update(cfg, memory)], GPUS[name]).seconds
        )
        rate = throughput or batch.accumulation * batch.per_gpu / seconds
        return Run(name, gb, largest, batch, updates, seen, step, rate)

    chosen = run(gpu, memory_gb or GPUS[gpu].memory / GIGA)
    built, _ = build(model.cfg, **model.sizes, device='meta')
    return Plan(
        model,
        parameter_rows(built),
        flops_per_image(model.cfg, chosen.batch.per_gpu, **model.sizes),
        linear_macs(built.backbone, model.image_size or built.backbone.img_size),
        memory,
        extra,
        effective,
        schedule(cfg, chosen.batch, images)[2],
        throughput is not None,
        chosen,
        [
            run(name, GPUS[name].memory / GIGA)
            for name in OTHERS
            if name != gpu and throughput is None and fits(memory, extra, GPUS[name].memory / GIGA)
        ],
    )


def check_numbers(
    gpus: int,
    gpu: str,
    memory_gb: float | None,
    throughput: float | None,
    images: int | None,
    image_size: tuple[int, int] | None,
) -> None:
    """ValueError for a number that is none of its kind."""
    positive = dict(gpus=gpus, memory_gb=memory_gb, throughput=throughput, images=images)
    positive['image_size'] = min(image_size) if image_size else None
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise UserError(f'{name} must be above 0, got {value:g}')
    if gpu not in GPUS:
        raise UserError(f'unknown gpu {gpu!r}; known are {", ".join(GPUS)}')


def fits(memory: StepMemory, extra: float, memory_gb: float) -> int:
    """The most images for a GPU; 0 where none fits."""
    return memory.largest_batch(usable(memory_gb) - (extra - CONTEXT))


def largest_batch(memory: StepMemory, extra: float, memory_gb: float) -> int:
    """The most images for a GPU; ValueError where none fits."""
    if largest := fits(memory, extra, memory_gb):
        return largest
    needed = (memory.total(1) + extra - CONTEXT) / SHARE + CONTEXT
    raise UserError(
        f'no batch fits into {memory_gb:g} GB: one image per GPU takes about '
        f'{needed / GIGA:.2g} GB ({(memory.fixed + extra) / GIGA:.2g} of them for any batch). '
        'Less is needed with model.backbone.with_cp=True, where the encoder has it, or with '
        'the weights spread over the GPUs (FSDP)'
    )


def linear_macs(vit: VisionTransformer, image_size: tuple[int, int]) -> int:
    """Multiply-adds of a whole image in the encoder's linear layers, attention's products left out.

    Papers print these as GFLOPs: 18.8 for ViT-S-54 and 67.0 for ViT-B-48.
    """
    projection = vit.patch_embed.projection
    height, width = map(int.__floordiv__, image_size, projection.kernel_size)
    blocks = sum(m.weight.numel() for m in vit.layers.modules() if isinstance(m, nn.Linear))
    return height * width * projection.weight.numel() + (height * width + 1) * blocks


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
            raise UserError(f'how many images are in {root!r}? Give images (--images)')
        images = IMAGENET_IMAGES
    epochs, per_step = cfg.train_cfg.max_epochs, batch.per_gpu * batch.gpus
    steps = images // per_step if cfg.train_dataloader.get('drop_last') else ceil(images / per_step)
    if steps == 0:
        raise UserError(f'{images:,} images are fewer than the {per_step:,} of one step')
    updates = epochs * ceil(steps / batch.accumulation)
    return updates, epochs * steps * per_step, f'{epochs:,} epochs of {images:,} images'
