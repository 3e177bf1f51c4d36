"""Where a training iteration reads values from the device, found without a device.

A read drains the queue of a GPU: ``item()``, ``tolist()``, a comparison in an ``if``, and whatever
has a result whose size depends on values, such as ``nonzero`` or an index of booleans.
"""

import sys
from collections import Counter

import torch
from mmengine.runner import Runner
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READING = (
    '_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim',
    'unique_consecutive', 'equal', 'bincount',
)  # fmt: skip
TO_HOST = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)  # no operations on a CPU


class HostReads(TorchDispatchMode):
    """Counts reads by 'file: function'. What an operation does inside itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.functions = _Functions(self.found)

    def __enter__(self) -> 'HostReads':
        self.functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.functions.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = tree_leaves(args[1:2]) if name in ('index', 'index_put', 'index_put_') else ()
        sizes = name == 'repeat_interleave' and (kwargs or {}).get('output_size') is None
        if name in READING or sizes or any(i.dtype == torch.bool for i in indices if i is not None):
            self.found[caller()] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in TO_HOST:
            self.found[caller()] += 1
        return func(*args, **(kwargs or {}))


def caller() -> str:
    """'file: function' of the innermost frame that is neither torch's nor this file's."""
    frame = sys._getframe(2)
    while path := frame.f_code.co_filename:
        if path != __file__ and '/torch/' not in path:
            name = path.rpartition('site-packages/')[2]
            return f'{name[max(name.rfind("mirl_mm/"), 0) :]}: {frame.f_code.co_name}'
        frame = frame.f_back


def reads_of(runner: Runner) -> list[Counter[str]]:
    """Train; the reads of every iteration, hooks included."""
    run_iter, counts = runner.train_loop.run_iter, []

    def counted(*args) -> None:
        with HostReads() as reads:
            run_iter(*args)
        counts.append(reads.found)

    runner.train_loop.run_iter = counted
    runner.train()
    return counts
