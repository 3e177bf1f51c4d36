"""How much memory a training step takes, from a rehearsal without data: an estimate, not a run.

The step runs on fake tensors, which have shapes and lifetimes and no contents, so that every size
can be tried on any machine in seconds. Tracked is what torch's operations allocate: weights,
gradients, activations until they are freed, the weights' half-precision copies. The gradients are
there from the start, as they are under accumulation and in distributed training. Added are the
optimizer's two moments. Not in it: the device's context and libraries, the kernels' workspaces and
what the caching allocator loses to fragments; :func:`usable` leaves room for them.

Shapes: B batch, H and W pixels.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirl_mm.models.dense import resizing_matrix
from mirl_mm.models.masking import sincos_positions

ADAMW_BYTES = 8  # a parameter's two moments in float32
PROBES = (32, 64)  # batch sizes; a step's peak is a straight line through them
CONTEXT = 1e9  # bytes that the driver and libraries take on a GPU
SHARE = 0.9  # of the rest that the estimate may fill: an allowance, not a measurement


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


def step_memory(
    model: Mapping,
    dtype: torch.dtype = torch.bfloat16,
    optimizer_bytes: float = ADAMW_BYTES,
    image_size: tuple[int, int] | None = None,
) -> StepMemory:
    """Rehearse forward and backward pass of a model at two batch sizes.

    Args:
        model: config of MIRL, MAE or an ImageClassifier (with ``loss(inputs, data_samples)``), or
            of an encoder, whose maps are then summed up. Settings such as ``with_cp`` count.
        dtype: of autocast; torch.float32 for none.
        optimizer_bytes: for each trainable parameter.
        image_size: (H, W); None takes the encoder's ``img_size``.

    Raises:
        ValueError: the model cannot be built or run, which names the reason.
    """
    small, large = PROBES
    probes = {batch: _rehearse(model, dtype, batch, image_size) for batch in PROBES}
    parameters, trainable, _ = probes[small]
    per_image = (probes[large][2] - probes[small][2]) / (large - small)
    own = parameters + trainable  # a gradient is as large as its parameter
    rest = probes[small][2] - own - per_image * small
    return StepMemory(parameters, trainable, trainable // 4 * optimizer_bytes, per_image, rest)


def usable(memory_gb: float) -> float:
    """Bytes that a step may take on a device of so many GB (10^9 bytes)."""
    return max(0.0, SHARE * (memory_gb * 1e9 - CONTEXT))


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there have been.

    Holds for real and for fake tensors made by operations inside the context.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it dies."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _rehearse(
    cfg: Mapping, dtype: torch.dtype, batch: int, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Bytes of all parameters, of trainable ones, and at the step's peak."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
            model, step = _fake_model(cfg, image_size)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
                loss = step(batch)
            loss.backward()
    finally:  # what was made on the way has no contents
        sincos_positions.cache_clear()
        resizing_matrix.cache_clear()
    sizes = {p: p.numel() * p.element_size() for p in model.parameters()}
    trainable = sum(size for p, size in sizes.items() if p.requires_grad)
    return sum(sizes.values()), trainable, live.peak


def _fake_model(
    cfg: Mapping, image_size: tuple[int, int] | None
) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """A model in training mode, and what makes its loss for a number of images."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg).train()
    vit = getattr(model, 'backbone', model)
    height, width = image_size or vit.img_size

    def step(batch: int) -> Tensor:
        imgs = torch.empty(batch, 3, height, width)
        if vit is model:
            return sum(each.sum(dtype=torch.float32) for each in model(imgs))
        classes = getattr(model.head, 'num_classes', 1)
        samples = [DataSample().set_gt_score(torch.empty(classes)) for _ in range(batch)]
        return model.loss(imgs, samples)['loss']

    return model, step
