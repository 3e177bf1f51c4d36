"""The one place that asks whether there is a GPU: on a CPU a rehearsal runs all the rest as it is.

A device is ``'cuda'`` or ``'cpu'``.
"""

import gc
import os
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.processes import ROOT
from benchmarks.timing import synchronise

SYNCED = 'called a synchronizing'  # how torch's warning begins


def description(device: str) -> dict:
    """Memory, driver, CUDA, compute capability and cores of the machine."""
    found = dict(cores=os.cpu_count(), memory_gb=round(memory_gb(device), 1))
    if device == 'cuda':
        found |= dict(
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            capability='.'.join(map(str, torch.cuda.get_device_capability())),
            driver=driver(),
        )
    return found


def driver() -> str:
    """The driver's version, as nvidia-smi says it."""
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return done.stdout.split('\n')[0].strip() or 'unknown'


def memory_gb(device: str) -> float:
    """All memory of the device, in 10^9 bytes."""
    if device == 'cuda':
        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9


def allocated(device: str) -> int:
    """Bytes that tensors take; on a CPU the process's resident memory."""
    if device == 'cuda':
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def forget(device: str) -> None:
    """Give cached memory back, and what torch.compile has learned about shapes.

    Raises:
        RuntimeError: a kernel has failed, after which a process can do nothing with its device.
    """
    gc.collect()
    if 'torch._dynamo' in sys.modules:  # to import it takes seconds
        torch.compiler.reset()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def exact_float32() -> None:
    """Products of float32 in float32: no TF32, in matrix products and convolutions alike."""
    torch.set_float32_matmul_precision('highest')
    torch.backends.cudnn.allow_tf32 = False


def profile_of(run: Callable[[], object], device: str, rows: int = 10) -> dict:
    """Kernels of one run and where its time goes; on a CPU every operation counts as a kernel.

    From the profiler's raw events: torch's own tables take a minute for a deep model.

    Returns:
        ``kernels``, ``busy_ms`` (the sum of their times), and the ``rows`` most expensive
        ``operations`` (by the kernels that each launched) and ``kernel_rows``.
    """
    kind = DeviceType.CUDA if device == 'cuda' else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == 'cuda')]
    with profile(activities=activities) as trace:
        run()
        synchronise(device)
    events = trace.profiler.kineto_results.events()
    on_host = [e for e in events if e.device_type() == DeviceType.CPU]
    spans = {e.name() for e in on_host if e.is_user_annotation()}  # the device has them too
    # Operations alone: calls of the driver, which have a link, count by other numbers.
    asked = [e for e in on_host if not e.linked_correlation_id()]
    launched_by = {e.correlation_id(): e.name() for e in asked}
    operations, kernels = Totals(), Totals()
    for event in on_host if device == 'cpu' else events:
        name = event.name()
        if event.device_type() != kind or name in spans:
            continue
        if name.startswith(('Memcpy', 'Memset')):
            continue
        kernels.add(name, event.duration_ns())
        launcher = launched_by.get(event.linked_correlation_id(), name)
        operations.add(name if device == 'cpu' else launcher, event.duration_ns())
    return dict(
        kernels=sum(kernels.calls.values()),
        busy_ms=round(sum(kernels.ns.values()) / 1e6, 2),
        operations=operations.rows(rows),
        kernel_rows=kernels.rows(rows),
    )


class Totals:
    """Times and calls by name."""

    def __init__(self) -> None:
        self.ns: Counter = Counter()
        self.calls: Counter = Counter()

    def add(self, name: str, nanoseconds: int) -> None:
        self.ns[name] += nanoseconds
        self.calls[name] += 1

    def rows(self, count: int) -> list[dict]:
        """The most expensive: name, ms, share of all, calls."""
        whole = max(sum(self.ns.values()), 1)
        return [
            dict(
                name=name.removeprefix('aten::')[:120],
                ms=round(spent / 1e6, 2),
                share=round(spent / whole, 3),
                calls=self.calls[name],
            )
            for name, spent in self.ns.most_common(count)
        ]


@contextmanager
def watched_waits(device: str) -> Iterator[Counter]:
    """Count what makes the host wait for the device meanwhile, by the line that asks for it.

    On a CPU, where nothing waits, reads of single values are counted in its place.
    """
    found: Counter = Counter()

    def note(message: object, *_: object, **__: object) -> None:
        if SYNCED in str(message):
            found[asker()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = note
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('warn')
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode('default')
        else:
            with SingleValues():
                yield found


class SingleValues(TorchDispatchMode):
    """Warn of every value that is read from a tensor, as torch does of a synchronisation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            warnings.warn(f'{SYNCED} operation', stacklevel=1)
        return func(*args, **(kwargs or {}))


def asker() -> str:
    """The innermost line outside of torch and of this file: path, line, function."""
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename
        if path in (__file__, warnings.__file__) or '/torch/' in path:
            continue
        short = path.split('site-packages/')[-1].removeprefix(f'{ROOT}/')
        return f'{short}:{frame.lineno} {frame.name}'
    return 'unknown'
