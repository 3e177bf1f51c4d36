"""How fast a device could multiply matrices and move bytes at best, and what it holds."""

import time
from typing import NamedTuple

import torch


class Device(NamedTuple):
    """Peak rates and memory of a GPU."""

    flops: float  # operations per second: dense (not sparse) products, float32 accumulation
    bandwidth: float  # bytes per second
    memory: float  # bytes


# From NVIDIA's data sheets and, for RTX cards, the appendices of its GA102 and AD102 white papers.
# bfloat16, except V100 and T4, which have float16 alone.
_DATA_SHEETS = {  # TFLOP/s, GB/s, GB
    'V100-PCIE': (112, 900, 32),
    'V100-SXM2': (125, 900, 32),
    'T4': (65, 320, 16),
    'A10': (125, 600, 24),
    'A30': (165, 933, 24),
    'A40': (149.7, 696, 48),
    'A100': (312, 2039, 80),
    'L4': (121, 300, 24),
    'L40S': (362, 864, 48),
    'H100': (989, 3350, 80),
    'H100 PCIe': (756, 2000, 80),
    'H200': (989, 4800, 141),
    'RTX 3090': (71, 936, 24),
    'RTX 4090': (165.2, 1008, 24),
}
GPUS = {name: Device(f * 1e12, b * 1e9, m * 1e9) for name, (f, b, m) in _DATA_SHEETS.items()}


class PeakRate(NamedTuple):
    """Operations per second and where the number comes from."""

    flops: float
    source: str


def peak_rate(device: torch.device | str, dtype: torch.dtype = torch.float32) -> PeakRate:
    """The data sheet's rate of a known GPU, or what a short matrix product in dtype reaches."""
    device = torch.device(device)
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        if known := known_gpu(name):
            source = f'data sheet of {name}: dense {known.flops / 1e12:g} TFLOP/s'
            return PeakRate(known.flops, source)
    rate, kind = measured_rate(device, dtype), str(dtype).removeprefix('torch.')
    return PeakRate(rate, f'measured: a {kind} matrix product, {rate / 1e9:.0f} GFLOP/s')


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
