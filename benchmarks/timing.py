"""Fair timing of alternatives: alternately in one process, ratios round by round.

Two clocks are read: wall time, and the process's CPU time. On a machine with other work, CPU time
at one thread is the one to compare by; on a GPU, and with threads on a quiet machine, wall time.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json
from mirl_mm.measure.cost import LiveBytes

CLOCKS = ('wall', 'cpu')
SIDES = dict(cpu=1024, cuda=8192)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How steps are timed, and where the result goes."""
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, help="torch's own choice without it")
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--clock', default='wall', choices=CLOCKS)
    add_out(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Where the result goes."""
    parser.add_argument('--out', type=Path, help='JSON file to write')


def use_threads(args: argparse.Namespace) -> None:
    """As many as were asked for."""
    if args.threads:
        torch.set_num_threads(args.threads)


def save(args: argparse.Namespace, result: Mapping) -> None:
    """Write the result, with the environment and the options, if a file was named."""
    if args.out:
        config = {key: value for key, value in vars(args).items() if key != 'out'}
        write_json(args.out, dict(environment(), config=config, **result))


class Spent(NamedTuple):
    """Seconds of one run."""

    wall: float
    cpu: float


def timed(run: Callable[[], object], device: str = 'cpu') -> Spent:
    """Run once, waiting for the device before and after."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    synchronise(device)
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def synchronise(device: str) -> None:
    """Wait for a GPU; nothing to wait for on a CPU."""
    if device == 'cuda':
        torch.cuda.synchronize()


def alternate(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: str = 'cpu', warm_up: int = 1
) -> dict[str, list[Spent]]:
    """Run everything once a round, so that a disturbance meets all of them.

    A first entry named ``matrix product`` is added, for the rate that the device reached meanwhile.
    """
    runs = {'matrix product': matrix_product(device), **runs}
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    for r in range(rounds + warm_up):
        for name, run in runs.items():
            one = timed(run, device)
            if r >= warm_up:
                spent[name].append(one)
            print(f'round {r} {name:<20} {one.wall:8.3f} s, CPU {one.cpu:8.3f} s', flush=True)
    return spent


def matrix_product(device: str) -> Callable[[], torch.Tensor]:
    """A square matrix product in float32, or bfloat16 on a GPU, of :func:`matrix_flops`."""
    side = SIDES[device]
    matrix = torch.randn(side, side, device=device)
    matrix = matrix.bfloat16() if device == 'cuda' else matrix

    def run() -> torch.Tensor:
        for _ in range(9):
            matrix @ matrix
        return matrix @ matrix

    return run


def matrix_flops(device: str) -> int:
    """Operations of :func:`matrix_product`."""
    return 10 * 2 * SIDES[device] ** 3


def summarise(
    spent: Mapping[str, Sequence[Spent]],
    ours: str,
    device: str = 'cpu',
    clock: str = 'wall',
    flops: Mapping[str, int] | None = None,
) -> dict:
    """Medians, ratios of ours to every other round by round, and rates of the operations counted.

    Args:
        spent: from :func:`alternate`.
        ours: the name that the ratios are of.
        device: where it ran.
        clock: ``wall`` or ``cpu``.
        flops: operations of one run, for the names where they are known.
    """
    seconds = {name: [round(getattr(s, clock), 4) for s in each] for name, each in spent.items()}
    product = seconds.pop('matrix product')
    rate = matrix_flops(device) / statistics.median(product)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    result = dict(
        clock=clock,
        seconds=seconds,
        medians=medians,
        ratios={
            name: spread([a / b for a, b in zip(seconds[ours], each, strict=True)])
            for name, each in seconds.items()
            if name != ours
        },
        matrix_gflops=round(rate / 1e9, 1),
    )
    if flops:
        result['gflop'] = {name: round(count / 1e9, 1) for name, count in flops.items()}
        result['gflops'] = {n: round(count / medians[n] / 1e9, 1) for n, count in flops.items()}
    return result


def spread(values: Sequence[float]) -> dict:
    """Median, least, most, and all of them in order."""
    values = [round(value, 4) for value in values]
    return dict(
        median=round(statistics.median(values), 4), low=min(values), high=max(values), all=values
    )


def show(result: Mapping) -> None:
    """Print what :func:`summarise` found."""
    for name, middle in result['medians'].items():
        line = f'{name:<24} median {middle:.3f} s'
        if name in result.get('gflops', {}):
            share = result['gflops'][name] / result['matrix_gflops']
            line += f', {result["gflops"][name]:.0f} GFLOP/s ({share:.0%} of a matrix product)'
        print(line)
    for name, ratio in result['ratios'].items():
        print(f'ours / {name}: {ratio["median"]:.3f} ({ratio["low"]:.3f} to {ratio["high"]:.3f})')


def peak_bytes(run: Callable[[], object], device: str = 'cpu') -> int:
    """The most that tensors made during a run take at once, without what was there before."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        run()
    return live.peak


def profiled(run: Callable[[], object], device: str = 'cpu', rows: int = 10) -> list[dict]:
    """The operations that take the most time by themselves: name, milliseconds, share, calls."""
    activities = [ProfilerActivity.CUDA if device == 'cuda' else ProfilerActivity.CPU]
    with profile(activities=activities) as trace:
        run()
        synchronise(device)
    own = 'self_device_time_total' if device == 'cuda' else 'self_cpu_time_total'
    events = sorted(trace.key_averages(), key=lambda event: -getattr(event, own))
    total = sum(getattr(event, own) for event in events)
    return [
        dict(
            operation=event.key.removeprefix('aten::'),
            ms=round(getattr(event, own) / 1e3, 1),
            share=round(getattr(event, own) / total, 3),
            calls=event.count,
        )
        for event in events[:rows]
    ]
