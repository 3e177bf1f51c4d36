"""How fast a device could multiply matrices at best: the denominator of model FLOP utilisation."""

import time
from typing import NamedTuple

import torch

# Dense (not sparse) tensor-core rates in TFLOP/s, with float32 accumulation, from NVIDIA's data
# sheets and, for RTX cards, the appendices of its GA102 and AD102 white papers. bfloat16, except
# V100 and T4, which have float16 alone. The longest name that a device's name contains counts.
TFLOPS = {
    'V100-PCIE': 112.0,
    'V100-SXM2': 125.0,
    'T4': 65.0,
    'A10': 125.0,
    'A30': 165.0,
    'A40': 149.7,
    'A100': 312.0,
    'L4': 121.0,
    'L40S': 362.0,
    'H100': 989.0,
    'H100 PCIe': 756.0,
    'H200': 989.0,
    'RTX 3090': 71.0,
    'RTX 4090': 165.2,
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
        if (known := known_rate(name)) is not None:
            return PeakRate(known, f'data sheet of {name}: dense {known / 1e12:g} TFLOP/s')
    measured = measured_rate(device, dtype)
    kind = str(dtype).removeprefix('torch.')
    return PeakRate(measured, f'measured: a {kind} matrix product, {measured / 1e9:.0f} GFLOP/s')


def known_rate(name: str) -> float | None:
    """Operations per second of a GPU as torch names it; None if it is not in the table."""
    words = name.replace('-', ' ').split()
    found = [
        key
        for key in TFLOPS
        if all(word in words for word in key.replace('-', ' ').split())  # A10 is not A100
    ]
    return TFLOPS[max(found, key=len)] * 1e12 if found else None


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
