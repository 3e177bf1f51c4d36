"""What a run takes before it is started: parameters, operations, memory, batch, time.

Nothing is trained and no image is opened. What is an estimate or a floor is called that.
"""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.models import VisionTransformer
from torch import nn

from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import accumulative_counts
from mirl_mm.engine.run_facts import parameter_rows
from mirl_mm.errors import UserError
from mirl_mm.measure import rehearsal
from mirl_mm.measure.cost import GPUS, Cost, Flops, Operation, cost
from mirl_mm.measure.rehearsal import CONTEXT, ONE_SIZE, SHARE, StepMemory, flops_per_image, probe

DENSE_HEADS = {'roi_head', 'decode_head'}
OTHERS = ('A100', 'H100', 'H200', 'L40S', 'RTX 4090')  # told beside the one that is asked for
DENSE_PROBES = (2, 4)  # images are larger; one is too few for batch norm
OPTIMIZER_BYTES = {'AdamW': 8, 'Adam': 8, 'SGD': 4, 'LARS': 4, 'Lamb': 8}  # of a parameter's state
GIGA = 1e9


class Model(NamedTuple):
    """A model's config, and how it is rehearsed."""

    cfg: Mapping
    dtype: torch.dtype
    image_size: tuple[int, int] | None  # height, width
    scope: str

    @property
    def dense(self) -> bool:
        """Whether it detects or segments."""
        return bool(DENSE_HEADS & self.cfg.keys())

    @property
    def sizes(self) -> dict:
        """Settings of :func:`rehearsal.build` beside the config."""
        return dict(image_size=self.image_size, scope=self.scope)


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
    """Plan a training run, asked for as in ``tools/plan.py --help``; image_size (height, width).

    UserError for what cannot be trained or planned, or fits nowhere.
    """
    numbers = dict(gpus=gpus, memory_gb=memory_gb, throughput=throughput, images=images)
    for name, value in (numbers | dict(image_size=min(image_size or [1]))).items():
        if value is not None and not value > 0:
            raise UserError(f'{name} must be above 0, got {value:g}')
    if gpu not in GPUS:
        raise UserError(f'unknown gpu {gpu!r}; known are {", ".join(GPUS)}')
    cfg = load_config(config, cfg_options)
    effective, model = recipe_batch(cfg, config), model_of(cfg, image_size)
    batches = DENSE_PROBES if model.dense else rehearsal.PROBES
    probed = probe(model.cfg, batches, dtype=model.dtype, **model.sizes)
    memory = probed.memory(optimizer_bytes(cfg, gpus))
    extra = CONTEXT + other_bytes(cfg, memory, gpus)

    def run(name: str, gb: float) -> Run:
        batch = divide(effective, gpus, largest := largest_batch(memory, extra, gb))
        step = cost(probed.operations(batch.per_gpu), GPUS[name])
        updating = cost([update(cfg, memory)], GPUS[name]).seconds
        seconds = batch.accumulation * step.seconds + updating
        rate = throughput or batch.accumulation * batch.per_gpu / seconds
        return Run(name, gb, largest, batch, *schedule(cfg, batch, images)[:2], step, rate)

    chosen = run(gpu, memory_gb or GPUS[gpu].memory / GIGA)
    others = {name: GPUS[name].memory / GIGA for name in OTHERS if name != gpu and not throughput}
    built, _ = rehearsal.build(model.cfg, **model.sizes, device='meta')
    macs = linear_macs(built.backbone, model.image_size or built.backbone.img_size)
    return Plan(
        model, parameter_rows(built),
        flops_per_image(model.cfg, chosen.batch.per_gpu, **model.sizes), macs, memory, extra,
        effective, schedule(cfg, chosen.batch, images)[2], throughput is not None, chosen,
        [run(name, gb) for name, gb in others.items() if fits(memory, extra, gb)],
    )  # fmt: skip


def recipe_batch(cfg: Config, path: str) -> int:
    """The recipe's effective batch; UserError for a config that is no training run."""
    refused = f'{path} cannot be planned: '
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if missing := [key for key in needed if cfg.get(key) is None]:
        raise UserError(f'{refused}it has no {", ".join(missing)}')
    kind = str(cfg.model.get('type')).rpartition('.')[2]
    if kind not in ONE_SIZE and not DENSE_HEADS & cfg.model.keys():
        others = f'{kind} is not one of {", ".join(ONE_SIZE)}'
        raise UserError(f'{refused}{others}, and has neither a roi_head nor a decode_head')
    if effective := (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        return effective
    setting = 'auto_scale_lr.base_batch_size, the batch that the recipe is meant for'
    raise UserError(f'{refused}{setting}, is not in it')


def model_of(cfg: Config, image_size: tuple[int, int] | None = None) -> Model:
    """The model as it is trained; image_size (height, width) overrides what the config says."""
    dtype = torch.float32
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        dtype = getattr(torch, cfg.optim_wrapper.get('dtype', 'float16'))
    model = Model(cfg.model, dtype, image_size, cfg.get('default_scope', 'mmpretrain'))
    if not model.dense or image_size is not None:
        return model
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    for transform in cfg.train_dataloader.dataset.get('pipeline', ()):
        size = transform.get('crop_size', size)
    if size is None:
        why = 'how large are the training images? The config crops them to no size of its own'
        raise UserError(f'{why}: give image_size (--image-size HEIGHT WIDTH)')
    return model._replace(image_size=tuple(size))


def optimizer_bytes(cfg: Config, gpus: int) -> float:
    """Bytes of state for each trainable parameter; UserError for an unknown optimizer."""
    optimizer = cfg.optim_wrapper.get('optimizer', {})
    kind, share = optimizer.get('type'), 1
    if kind == 'ZeroRedundancyOptimizer':
        kind, share = optimizer.get('optimizer_type'), gpus
    if kind not in OPTIMIZER_BYTES:
        known = ', '.join(OPTIMIZER_BYTES)
        raise UserError(f'the memory of the optimizer {kind!r} is not known; known are {known}')
    return OPTIMIZER_BYTES[kind] / share


def averages(cfg: Config) -> bool:
    """Whether the run keeps averaged weights."""
    return any('EMAHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or ())


def other_bytes(cfg: Config, memory: StepMemory, gpus: int) -> float:
    """What training holds beside the step itself: DDP's buckets and the averaged weights."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    buckets = gpus > 1 and not wrapper.get('gradient_as_bucket_view', True)  # tools/train.py's own
    return buckets * memory.gradients + averages(cfg) * memory.parameters


def update(cfg: Config, memory: StepMemory) -> Operation:
    """An update as one kernel."""
    # The guard reads and writes gradients, the optimizer reads them and changes weights and state,
    # and averaged weights are read beside the weights and written.
    moved = 5 * memory.gradients + 2 * memory.optimizer + 3 * averages(cfg) * memory.parameters
    return Operation('update', 0, moved)


def fits(memory: StepMemory, extra: float, memory_gb: float) -> int:
    """The most images for a GPU; 0 where none fits."""
    return memory.largest_batch(rehearsal.usable(memory_gb) - (extra - CONTEXT))


def largest_batch(memory: StepMemory, extra: float, memory_gb: float) -> int:
    """The most images for a GPU; UserError where none fits."""
    if largest := fits(memory, extra, memory_gb):
        return largest
    needed = (memory.total(1) + extra - CONTEXT) / SHARE + CONTEXT
    parts = f'{needed / GIGA:.2g} GB ({(memory.fixed + extra) / GIGA:.2g} of them for any batch)'
    less = 'with model.backbone.with_cp=True, where the encoder has it, or with the weights spread'
    fault = f'no batch fits into {memory_gb:g} GB: one image per GPU takes about {parts}'
    raise UserError(f'{fault}. Less is needed {less} over the GPUs (FSDP)')


def linear_macs(vit: VisionTransformer, image_size: tuple[int, int]) -> int:
    """Multiply-adds of a whole image in the encoder's linear layers, attention's products left out.

    Papers print these as GFLOPs: 18.8 for ViT-S-54 and 67.0 for ViT-B-48.
    """
    projection = vit.patch_embed.projection
    height, width = map(int.__floordiv__, image_size, projection.kernel_size)
    blocks = sum(m.weight.numel() for m in vit.layers.modules() if isinstance(m, nn.Linear))
    tokens = height * width + vit.num_extra_tokens
    return height * width * projection.weight.numel() + tokens * blocks


def divide(effective: int, gpus: int, largest: int) -> Batch:
    """The fewest accumulated steps that reach the effective batch, exactly if that is possible."""
    fewest = max(1, ceil(effective / (gpus * largest)))
    for accumulation in range(fewest, 2 * fewest + 1):
        if effective % (gpus * accumulation) == 0:
            return Batch(effective // (gpus * accumulation), gpus, accumulation)
    return Batch(max(1, min(largest, round(effective / (gpus * fewest)))), gpus, fewest)


def count_images(cfg: Config) -> int:
    """How many the run would list; ImageNet-1k's number is known where its folder is not there."""
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            return len(DATASETS.build(cfg.train_dataloader.dataset))
    except FileNotFoundError as error:
        root = str(cfg.train_dataloader.dataset.get('data_root', ''))
        if 'imagenet' in root:
            return 1_281_167
        asked = f'how many images are in {root!r}? Give images (--images)'
        raise UserError(f'{asked}: {error}') from error


def schedule(cfg: Config, batch: Batch, images: int | None) -> tuple[int, int, str]:
    """Updates, images seen by all GPUs together, and the length in words."""
    if 'max_iters' in cfg.train_cfg:
        updates = cfg.train_cfg.max_iters // accumulative_counts(cfg)
        length = f'{updates * batch.accumulation:,} iterations'
        return updates, updates * batch.effective, length
    images = count_images(cfg) if images is None else images
    epochs, per_step = cfg.train_cfg.max_epochs, batch.per_gpu * batch.gpus
    steps = images // per_step if cfg.train_dataloader.get('drop_last') else ceil(images / per_step)
    if steps == 0:
        raise UserError(f'{images:,} images are fewer than the {per_step:,} of one step')
    updates = epochs * ceil(steps / batch.accumulation)
    return updates, epochs * steps * per_step, f'{epochs:,} epochs of {images:,} images'
