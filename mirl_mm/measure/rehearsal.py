"""A training step without data, on tensors of shapes and lifetimes: any size, on any machine.

Detectors are rehearsed in part: encoder, neck, the RPN's and the RoI heads' layers on as many
regions as training samples; not what depends on contents (assigning, sampling and suppressing
boxes, pooling regions) and not their losses.

Memory is an estimate, of what torch's operations allocate and the optimizer's moments, without the
context, workspaces and the allocator's fragments; :func:`usable` leaves room for them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mirl_mm.libraries import check_libraries
from mirl_mm.models.dense import resizing_matrix
from mirl_mm.models.masking import sincos_positions

from .cost import Flops, LikeCUDA, LiveBytes, Operation, Trace, flops

PROBES = (32, 64)  # batch sizes; everything about a step is a straight line through them
CONTEXT = 1e9  # bytes that the driver and libraries take on a GPU
SHARE = 0.9  # of the rest that the estimate may fill: an allowance, not a measurement
ONE_SIZE = ('MIRL', 'MAE', 'ImageClassifier')  # all images of a run of these are of one size
Size = tuple[int, int] | None  # (height, width) of images; None takes the encoder's img_size
Step = Callable[[int], Tensor]  # number of images -> loss


class Rehearsal(NamedTuple):
    """What a step took."""

    parameters: int  # bytes
    trainable: int  # bytes of those parameters that are trained
    peak: int  # bytes of all tensors at once, gradients included
    operations: list[Operation]


class StepMemory(NamedTuple):
    """Bytes of a training step: what does not depend on the batch, and every image's share."""

    parameters: int
    gradients: int
    optimizer: int
    per_image: float
    rest: float  # casts of weights and other constants

    @property
    def fixed(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.rest

    def total(self, batch: int) -> float:
        """Estimated peak bytes with that many images on a device."""
        return self.fixed + self.per_image * batch

    def largest_batch(self, limit: float) -> int:
        """The most images for which the estimate stays within limit bytes; 0 where none fits."""
        return max(0, int((limit - self.fixed) // self.per_image))


class Probe(NamedTuple):
    """A step at two batch sizes."""

    batches: tuple[int, int]
    small: Rehearsal
    large: Rehearsal

    def memory(self, optimizer_bytes: float = 8) -> StepMemory:
        """Its memory at any batch; optimizer_bytes for each trainable parameter, AdamW's are 8."""
        parameters, gradients = self.small.parameters, self.small.trainable  # as large as they are
        per_image = self._slope(self.small.peak, self.large.peak)
        rest = self.small.peak - parameters - gradients - per_image * self.batches[0]
        return StepMemory(parameters, gradients, gradients // 4 * optimizer_bytes, per_image, rest)

    def operations(self, batch: int) -> list[Operation]:
        """Its operations at any batch."""

        def at(least: float, most: float) -> float:
            return least + self._slope(least, most) * (batch - self.batches[0])

        pairs = zip(self.small.operations, self.large.operations, strict=True)
        return [Operation(a.name, at(a.flops, b.flops), at(a.bytes, b.bytes)) for a, b in pairs]

    def _slope(self, least: float, most: float) -> float:
        return (most - least) / (self.batches[1] - self.batches[0])


def probe(model: Mapping, batches: tuple[int, int] = PROBES, **settings) -> Probe:
    """Rehearse a model's step twice, with the settings of :func:`rehearse`."""
    return Probe(batches, *(rehearse(model, batch, **settings) for batch in batches))


def usable(memory_gb: float) -> float:
    """Bytes that a step may take on a device of so many GB (10^9 bytes)."""
    return max(0.0, SHARE * (memory_gb * 1e9 - CONTEXT))


def rehearse(
    cfg: Mapping,
    batch: int,
    dtype: torch.dtype = torch.bfloat16,
    image_size: Size = None,
    scope: str = 'mmpretrain',
) -> Rehearsal:
    """Forward and backward pass of what :func:`build` makes; dtype is autocast's.

    Gradients take memory from the start, as under accumulation and in distributed training; adding
    to them is not among the operations.
    """
    with ExitStack() as end, FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        for table in (sincos_positions, resizing_matrix):  # made anew, and forgotten: no contents
            table.cache_clear()
            end.callback(table.cache_clear)
        model, step = build(cfg, image_size, scope)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        operations = passes(lambda: step(batch), dtype, [p.grad for p in trained])
    sizes = {p: p.numel() * p.element_size() for p in model.parameters()}
    return Rehearsal(sum(sizes.values()), sum(sizes[p] for p in trained), live.peak, operations)


def passes(
    forward: Callable[[], Tensor], dtype: torch.dtype, ignored: Sequence[Tensor] = ()
) -> list[Operation]:
    """The operations of both passes, forward under autocast; those on ignored tensors left out."""
    with Trace(ignored) as trace, torch.compiler.set_stance('force_eager'):
        with LikeCUDA(), torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            loss = forward()
        loss.backward()
    return trace.operations


def flops_per_image(
    model: Mapping, batch: int, image_size: Size = None, scope: str = 'mmpretrain'
) -> Flops:
    """The work for one image of what :func:`build` makes, with its share of the batch's own.

    MIRL projects masked tokens in a decoder's first block once a batch.
    """
    _, step = build(model, image_size, scope, 'meta')
    with torch.compiler.set_stance('force_eager'):
        whole = flops(lambda: step(batch))
    return Flops(whole.forward / batch, whole.training / batch)


def build(
    cfg: Mapping, image_size: Size = None, scope: str = 'mmpretrain', device: str = 'cpu'
) -> tuple[nn.Module, Step]:
    """A model in training mode on a device, and what makes its loss for a number of images.

    The model is MIRL, MAE, an ImageClassifier, a detector or segmentor; or an encoder, whose maps
    are summed up. The scope is where its types are looked for; UserError without its packages.
    """
    check_libraries(scope)
    unused = ['data_preprocessor'] + ['train_cfg'] * ('augments' in (cfg.get('train_cfg') or {}))
    parts = {key: value for key, value in cfg.items() if key not in unused}
    with DefaultScope.overwrite_default_scope(scope), torch.device(device):
        model = MODELS.build(parts).train()
    vit = getattr(model, 'backbone', model)
    size = (vit.patch_embed.projection.in_channels, *(image_size or vit.img_size))
    losses = dict(roi_head=detector_outputs, decode_head=segmentor_loss, head=labelled_loss)
    found = (loss for part, loss in losses.items() if hasattr(model, part))
    loss = next(found, lambda encoder, imgs: total(encoder(imgs)))
    return model, lambda batch: loss(model, torch.empty(batch, *size, device=device))


def labelled_loss(model: nn.Module, imgs: Tensor) -> Tensor:
    """A classifier's loss; MIRL and MAE ask for no labels."""
    scores = imgs.new_empty(len(imgs), getattr(model.head, 'num_classes', 1))
    return model.loss(imgs, [DataSample().set_gt_score(score) for score in scores])['loss']


def detector_outputs(model: nn.Module, imgs: Tensor) -> Tensor:
    """The sum of what a two-stage detector's layers give for images and sampled regions."""
    maps = model.extract_feat(imgs)  # held until the losses are there
    outputs = [*model.rpn_head(maps)]
    roi, stages = model.roi_head, model.train_cfg.rcnn
    sampler = (stages[0] if isinstance(stages, Sequence) else stages).sampler
    for extractors, heads, share in (
        (roi.bbox_roi_extractor, roi.bbox_head, 1.0),
        (roi.mask_roi_extractor, roi.mask_head, sampler.pos_fraction),
    ):
        if not isinstance(heads, nn.ModuleList):  # a cascade has several
            extractors, heads = [extractors], [heads]
        for extractor, head in zip(extractors, heads, strict=True):
            number = int(sampler.num * share) * len(imgs)
            size = (extractor.out_channels, *extractor.roi_layers[0].output_size)
            outputs.append(head(imgs.new_empty(number, *size, requires_grad=True)))
    return total(outputs)


def segmentor_loss(model: nn.Module, imgs: Tensor) -> Tensor:
    """A segmentor's losses, without the accuracy that mmseg adds to its log."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = PixelData(data=imgs.new_empty(1, *imgs.shape[-2:], dtype=torch.long))
    samples = [SegDataSample(gt_sem_seg=labels)] * len(imgs)
    with mock.patch('mmseg.models.decode_heads.decode_head.accuracy', lambda *_, **__: imgs[0, 0]):
        losses = model.loss(imgs, samples)
    return total([value for name, value in losses.items() if 'loss' in name])


def total(outputs: object) -> Tensor:
    """The sum of all numbers in nested sequences of tensors."""
    if isinstance(outputs, Tensor):
        return outputs.sum(dtype=torch.float32)
    return sum(total(each) for each in outputs)
