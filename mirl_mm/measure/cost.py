"""What a training step costs on paper: what every operation must compute and move.

A trace of a step on fake tensors lists its operations, with their multiply-adds (as torch's
FlopCounterMode counts them), the bytes that each must read and write, and that each is a kernel to
launch. Summed over them, the longest of the three is a floor for eager execution: no kernel is
faster than the device's peak rates, and none finds in a cache what another has left there.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from .peak_rate import Device

LAUNCH = 2e-6  # seconds that a kernel takes at least
aten = torch.ops.aten
NO_KERNEL = (
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
)  # fmt: skip
WRITE_ONLY = (aten.copy_, aten.fill_, aten.zero_, aten._foreach_copy_, aten._foreach_zero_)
FLOPS = {  # the CPU's kernel, which stands in for the GPU's, is not in torch's table
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}


class Operation(NamedTuple):
    """One kernel."""

    name: str
    flops: int  # of products, a multiply-add as two
    bytes: int  # read and written


class Trace(TorchDispatchMode):
    """Lists the operations inside; views and allocations are none.

    Args:
        ignored: tensors; what changes one of them is left out.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.ignored = {storage(tensor) for tensor in ignored}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        kind, schema = func.overloadpacket, func._schema
        named = dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
        changed = tensors([named.get(each.name) for each in schema.arguments if each.is_write])
        read = tensors((args, kwargs))
        known = {storage(tensor) for tensor in read}
        made = [tensor for tensor in tensors(result) if storage(tensor) not in known]
        if kind in NO_KERNEL or func.namespace == 'prim' or not (made or changed):
            return result
        if self.ignored and any(storage(tensor) in self.ignored for tensor in changed):
            return result
        if kind in WRITE_ONLY or func._overloadname == 'out':
            read = [tensor for tensor in read if not any(tensor is each for each in changed)]
        flops = FLOPS[kind](*args, **kwargs, out_val=result) if kind in FLOPS else 0
        moved = sum(size(tensor) for tensor in (*read, *made, *changed))
        self.operations.append(Operation(kind.__name__, flops, moved))
        return result


class LikeCUDA(TorchFunctionMode):
    """Autocast on a CPU as it is on a GPU, which norms in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.layer_norm and torch.is_autocast_enabled('cpu'):
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs or {}))
            with torch.autocast('cpu', enabled=False):
                return func(*args, **kwargs)
        return func(*args, **(kwargs or {}))


class Cost(NamedTuple):
    """A sum over operations."""

    kernels: int
    bytes: float
    flops: float
    seconds: float  # at least, on a device


def cost(operations: Sequence[Operation], device: Device) -> Cost:
    """What the operations take on a device, each at the device's peak rates."""
    seconds = (
        max(each.flops / device.flops, each.bytes / device.bandwidth, LAUNCH) for each in operations
    )
    moved = sum(each.bytes for each in operations)
    return Cost(len(operations), moved, sum(each.flops for each in operations), sum(seconds))


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def size(tensor: Tensor) -> int:
    """Bytes of what is different in it: an expanded dimension counts once."""
    number = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= length if stride else min(length, 1)
    return number
