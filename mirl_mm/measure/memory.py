"""How much memory and time a training step takes at any batch, from two rehearsals: estimates.

Memory is what torch's operations allocate: weights, gradients, activations until they are freed,
the weights' half-precision copies. Added are the optimizer's two moments. Not in it: the device's
context and libraries, the kernels' workspaces and what the caching allocator loses to fragments;
:func:`usable` leaves room for them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .cost import Operation
from .rehearsal import Rehearsal, rehearse

ADAMW_BYTES = 8  # a parameter's two moments in float32
PROBES = (32, 64)  # batch sizes; everything about a step is a straight line through them
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


class Probe(NamedTuple):
    """A step at two batch sizes."""

    batches: tuple[int, int]
    small: Rehearsal
    large: Rehearsal

    def memory(self, optimizer_bytes: float = ADAMW_BYTES) -> StepMemory:
        """Its memory at any batch; optimizer_bytes for each trainable parameter."""
        parameters, gradients = self.small.parameters, self.small.trainable  # as large as they are
        per_image = self._slope(self.small.peak, self.large.peak)
        rest = self.small.peak - parameters - gradients - per_image * self.batches[0]
        return StepMemory(parameters, gradients, gradients // 4 * optimizer_bytes, per_image, rest)

    def operations(self, batch: int) -> list[Operation]:
        """Its operations at any batch."""
        return [
            Operation(a.name, self._at(batch, a.flops, b.flops), self._at(batch, a.bytes, b.bytes))
            for a, b in zip(self.small.operations, self.large.operations, strict=True)
        ]

    def _at(self, batch: int, least: float, most: float) -> float:
        return least + self._slope(least, most) * (batch - self.batches[0])

    def _slope(self, least: float, most: float) -> float:
        return (most - least) / (self.batches[1] - self.batches[0])


def probe(model: Mapping, batches: tuple[int, int] = PROBES, **settings) -> Probe:
    """Rehearse a model's step twice; arguments are those of :func:`rehearsal.rehearse`."""
    return Probe(batches, *(rehearse(model, batch, **settings) for batch in batches))


def usable(memory_gb: float) -> float:
    """Bytes that a step may take on a device of so many GB (10^9 bytes)."""
    return max(0.0, SHARE * (memory_gb * 1e9 - CONTEXT))
