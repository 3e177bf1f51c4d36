"""What a step costs on paper: what its operations compute, move and hold, at a device's best rates.

A trace on fake tensors lists them, with multiply-adds (as torch's FlopCounterMode counts them) and
bytes read and written. Each takes the longest of computing, moving and its launch: a floor for
eager execution, where no kernel beats peak rates or finds in a cache what another has left there.
"""

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

LAUNCH = 2e-6  # seconds that a kernel takes at least
aten = torch.ops.aten
NO_KERNEL = (
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
)  # fmt: skip
WRITE_ONLY = (aten.copy_, aten.fill_, aten.zero_, aten._foreach_copy_, aten._foreach_zero_)
_FLASH = '_scaled_dot_product_flash_attention'
FLOPS = flop_registry | {  # which lacks the CPU's kernel, that stands in for the GPU's
    getattr(aten, f'{_FLASH}_for_cpu{end}'): flop_registry[getattr(aten, _FLASH + end)]
    for end in ('', '_backward')
}


class Device(NamedTuple):
    """Peak rates and memory of a GPU."""

    flops: float  # operations per second: dense (not sparse) products, float32 accumulation
    bandwidth: float  # bytes per second
    memory: float  # bytes


# From NVIDIA's data sheets and, for RTX cards, the appendices of its GA102 and AD102 white papers.
# bfloat16, except V100 and T4, which have float16 alone.
_DATA_SHEETS = {  # TFLOP/s, GB/s, GB
    'V100-PCIE': (112, 900, 32), 'V100-SXM2': (125, 900, 32), 'T4': (65, 320, 16),
    'A10': (125, 600, 24), 'A30': (165, 933, 24), 'A40': (149.7, 696, 48), 'A100': (312, 2039, 80),
    'L4': (121, 300, 24), 'L40S': (362, 864, 48), 'RTX 3090': (71, 936, 24),
    'H100': (989, 3350, 80), 'H100 PCIe': (756, 2000, 80), 'H200': (989, 4800, 141),
    'RTX 4090': (165.2, 1008, 24),
}  # fmt: skip
GPUS = {name: Device(f * 1e12, b * 1e9, m * 1e9) for name, (f, b, m) in _DATA_SHEETS.items()}


class Operation(NamedTuple):
    """One kernel."""

    name: str
    flops: int  # of products, a multiply-add as two
    bytes: int  # read and written


class Trace(TorchDispatchMode):
    """Lists operations, not views, allocations and what changes one of the ignored tensors."""

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.ignored = {*map(_storage, ignored)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        kind, schema = func.overloadpacket, func._schema
        named = dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
        changed = _tensors([named.get(each.name) for each in schema.arguments if each.is_write])
        read = _tensors((args, kwargs))
        known = {*map(_storage, read)}
        made = [tensor for tensor in _tensors(result) if _storage(tensor) not in known]
        if kind in NO_KERNEL or func.namespace == 'prim' or not (made or changed):
            return result
        if not self.ignored.isdisjoint(map(_storage, changed)):
            return result
        if kind in WRITE_ONLY or func._overloadname == 'out':
            read = [tensor for tensor in read if not any(tensor is each for each in changed)]
        flops = FLOPS[kind](*args, **kwargs, out_val=result) if kind in FLOPS else 0
        moved = sum(_size(tensor) for tensor in (*read, *made, *changed))
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


class Flops(NamedTuple):
    """Operations of a forward pass, and of forward and backward pass together.

    Counted are products, convolutions and attention, a multiply-add as two; not norms, activations
    and what checkpointing recomputes. So this is the *model's* work, the numerator of model FLOP
    utilisation (PaLM, https://arxiv.org/abs/2204.02311, appendix B).
    """

    forward: float
    training: float


def flops(forward: Callable[[], object]) -> Flops:
    """The work of a forward pass, and with the backward pass that would follow."""
    with _Count() as count:
        forward()
    return Flops(count.forward, count.training)


class _Count(TorchDispatchMode):
    forward, training = 0, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in FLOPS:
            number = FLOPS[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
            factors = [each for each in args if isinstance(each, Tensor) and each.dim() > 1]
            # (a product as large for every operand that wants a gradient)
            wanted = sum(each.requires_grad for each in factors) / len(factors)
            self.forward += number
            self.training += number * (1 + 2 * wanted)
        return result


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors, real or fake, made inside and alive; and the most there have been."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for storage in map(Tensor.untyped_storage, _tensors(result)):
            if storage not in self._seen:
                self._seen.add(storage)
                self._add(size := storage.nbytes())
                weakref.finalize(storage, self._add, -size)
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_rate(device: str, dtype: torch.dtype = torch.float32) -> tuple[float, str]:
    """Operations per second, and their source: a data sheet or a short matrix product in dtype."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    if known := known_gpu(name):
        return known.flops, f'data sheet of {name}: dense {known.flops / 1e12:g} TFLOP/s'
    rate, kind = measured_rate(device, dtype), str(dtype).removeprefix('torch.')
    return rate, f'measured: a {kind} matrix product, {rate / 1e9:.0f} GFLOP/s'


def known_gpu(name: str) -> Device | None:
    """A GPU as torch names it, by the longest name within; None if it is not in the table."""
    words = set(name.replace('-', ' ').split())  # whole words: A10 is not A100
    found = [key for key in GPUS if words.issuperset(key.replace('-', ' ').split())]
    return GPUS[max(found, key=len)] if found else None


def measured_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """Operations per second of the fastest of some square matrix products; draws no numbers."""
    side = dict(cpu=1024, cuda=8192).get(device.type, 2048)
    matrix = torch.linspace(0, 1, side * side, device=device).view(side, side).to(dtype)
    (matrix @ matrix).sum().item()  # warm up
    best, until = float('inf'), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size(tensor: Tensor) -> int:
    """Bytes of what is different in it: an expanded dimension counts once."""
    number = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= length if stride else min(length, 1)
    return number
