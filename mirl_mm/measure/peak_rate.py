"""How fast a device could multiply matrices and move bytes at best."""

import time
from typing import NamedTuple

import torch


class Device(NamedTuple):
    """Peak rates and memory of a GPU."""

    flops: float  # operations per second: dense (not sparse) products, float32 accumulation
    bandwidth: float  # bytes per second
    memory: float  # bytes


def _gpu(tflops: float, gb_per_s: float, gb: float) -> Device:
    return Device(tflops * 1e12, gb_per_s * 1e9, gb * 1e9)


# From NVIDIA's data sheets and, for RTX cards, the appendices of its GA102 and AD102 white papers.
# bfloat16, except V100 and T4, which have float16 alone. The longest name that a device's name
# contains counts.
GPUS = {
    'V100-PCIE': _gpu(112, 900, 32),
    'V100-SXM2': _gpu(125, 900, 32),
    'T4': _gpu(65, 320, 16),
    'A10': _gpu(125, 600, 24),
    'A30': _gpu(165, 933, 24),
    'A40': _gpu(149.7, 696, 48),
    'A100': _gpu(312, 2039, 80),
    'L4': _gpu(121, 300, 24),
    'L40S': _gpu(362, 864, 48),
    'H100': _gpu(989, 3350, 80),
    'H100 PCIe': _gpu(756, 2000, 80),
    'H200': _gpu(989, 4800, 141),
    'RTX 3090': _gpu(71, 936, 24),
    'RTX 4090': _gpu(165.2, 1008, 24),
}
_SIDES = dict(cpu=1024, cuda=8192)


class PeakRate(NamedTuple):
    """Operations per second and where the number comes from."""

    flops: float
    source: str


def peak_rate(device: torch.device | str, dtype: torch.dtype = torch.float32) -> PeakRate:
    """The data sheet's rate of a known GPU, or what a short matrix product reaches here.

    Args:
        device: where training runs.
        dtype: of the product that is measured where the device is not in the table.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        if (known := known_gpu(name)) is not None:
            rate = known.flops
            return PeakRate(rate, f'data sheet of {name}: dense {rate / 1e12:g} TFLOP/s')
    measured = measured_rate(device, dtype)
    kind = str(dtype).removeprefix('torch.')
    return PeakRate(measured, f'measured: a {kind} matrix product, {measured / 1e9:.0f} GFLOP/s')


def known_gpu(name: str) -> Device | None:
    """A GPU as torch names it; None if it is not in the table."""
    words = name.replace('-', ' ').split()
    found = [
        key
        for key in GPUS
        if all(word in words for word in key.replace('-', ' ').split())  # A10 is not A100
    ]
    return GPUS[max(found, key=len)] if found else None


def measured_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """Operations per second of the fastest of some square matrix products; draws no numbers."""
    side = _SIDES.get(device.type, 2048)
    matrix = torch.linspace(0, 1, side * side, device=device).view(side, side).to(dtype)
    (matrix @ matrix).sum().item()  # warm up
    best, until = float('inf'), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
