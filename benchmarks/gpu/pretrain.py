"""Stage 2: the pre-training step of ours and its peers, in bfloat16.

A step is forward and backward on random images, with and without the optimizer's update, each
model with its own optimizer (pretrain_step.py). All models of a part lie in memory side by side and
are timed alternately; one that does not fit is left out. ``LOOPS`` steps are timed at once, so that
waiting for the device counts little.
"""

import functools
import json
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import ideas
from benchmarks.pretrain_step import (
    VARIANTS,
    flops_of,
    models,
    optimizer_of,
    step,
    with_updates,
)
from benchmarks.processes import ROOT
from benchmarks.timing import alternate, peak_bytes, summarise, timed
from tests.reference import Reference

from .device import forget, profile_of
from .stage import Bench, LeftOut, Part
from .tables import NAMES

LOOPS, ROUNDS, IDEA_ROUNDS = 4, 6, 8
COMPILED = ', compiled'  # behind a peer's name
LR = 1e-6  # of the updates: random images are no task, and values that are not finite cost less
TRACED = dict(compiled=dict(compile_blocks=dict(backend='eager')))  # a rehearsal has no compiler
SIZES = {  # arch and batch, first and second; B-12 last
    False: dict(first=[('s54', 256), ('b48', 64)], second=[('s54', 512), ('b48', 128)],
                last=[('b12', 256)]),
    True: dict(first=[('test', 4)], second=[('test', 8)], last=[]),
}  # fmt: skip
NEEDS = {  # GB of a part: weights and moments of all models, activations of the largest
    ('s54', 256): 60, ('b48', 64): 55, ('s54', 512): 75, ('b48', 128): 75, ('b12', 256): 60,
}  # fmt: skip


def sizes(rehearse: bool) -> dict:
    return SIZES[rehearse]


def parts(rehearse: bool) -> list[Part]:
    size = SIZES[rehearse]
    peers, own = ['mae', 'plain'], ['compiled', 'checkpointed']

    def part(what: str, names: list[str], seconds: float, case: tuple[str, int]) -> Part:
        run = partial(compare, case[0], case[1], names)
        return Part(f'{case[0]} {case[1]} {what}', run, seconds, NEEDS.get(case, 0))

    found = [part('eager', peers, 50, case) for case in size['first']]
    found += [part('settings', own, 75, case) for case in size['first']]
    found += [
        Part(f'{arch} {batch} ideas', partial(undo, arch, batch), 30, NEEDS.get((arch, batch), 0))
        for arch, batch in size['first']
    ]
    found += [part('eager', peers, 50, case) for case in size['second']]
    found += [part('eager', peers, 40, case) for case in size['last']]
    compiled = ['compiled', 'mae, compiled', 'plain, compiled']
    return found + [part('compiled peers', compiled, 150, case) for case in size['first']]


def built(arch: str, bench: Bench, names: list[str], init: bool = False) -> dict[str, nn.Module]:
    """Models by name, made on the device itself: drawing 378 M numbers takes a CPU long."""
    variants = VARIANTS | (TRACED if bench.rehearse else {})
    with torch.device(bench.device):
        return models(arch, bench.device, names, variants, init)


def compile_blocks(peer: nn.Module, backend: str) -> None:
    """Compile a peer's blocks as ours are: one copy for all of a kind, the block an argument."""
    if isinstance(peer, Reference):
        lists = [peer.blocks, *(m for n, m in peer.named_children() if n.startswith('decoder'))]
    else:
        lists = [peer.backbone.layers, peer.neck.decoder_blocks]
    kinds: dict[type, Callable] = {}
    for block in (block for each in lists if isinstance(each, nn.ModuleList) for block in each):
        kind = type(block)
        if kind not in kinds:
            kinds[kind] = torch.compile(kind.forward, backend=backend)
        block.forward = functools.partial(kinds[kind], block)


def compare(arch: str, batch: int, names: list[str], bench: Bench) -> dict:
    """Images per second, memory, rates and kernels of ours and the others of a part."""
    device, dtype = bench.device, torch.bfloat16
    made = built(arch, bench, [name.removesuffix(COMPILED) for name in names])
    side = made['mirl'].backbone.img_size[0]
    imgs = torch.randn(batch, 3, side, side, device=device)
    flops = {name: flops_of(model, imgs) for name, model in made.items()}
    for name in names:
        if name.endswith(COMPILED):
            made[name] = made.pop(name.removesuffix(COMPILED))
            flops[name] = flops.pop(name.removesuffix(COMPILED))
            compile_blocks(made[name], 'eager' if bench.rehearse else 'inductor')
    runs = {name: partial(step, model, imgs, dtype) for name, model in made.items()}
    first, too_large = first_steps(runs, made, device)
    updates = with_updates(made, runs, optimizer)
    fixed = {name: fixed_bytes(made[name]) for name in runs}
    peak = {}
    for name, run in updates.items():
        run()  # the optimizer's state is made
        for model in made.values():
            model.zero_grad(set_to_none=True)
        peak[name] = peak_bytes(run, device) + fixed[name]
    loops = loops_of(bench)
    alone = compared(runs, 'mirl', bench, flops=flops)
    whole = compared(updates, 'mirl', bench, flops=flops)
    rates = {name: loops * batch / seconds for name, seconds in whole['medians'].items()}
    profiles = {name: profile_of(run, device) for name, run in updates.items()}
    estimates = {name: estimated_gb(arch, batch, name) for name in runs}
    gb = {name: round(count / 1e9, 2) for name, count in peak.items()}
    return dict(
        arch=arch,
        batch=batch,
        dtype='bfloat16',
        loops=loops,
        images_per_s={name: round(rate, 1) for name, rate in rates.items()},
        step=alone,
        with_update=whole,
        of_matrix_product={
            name: round(rate / alone['matrix_gflops'], 4) for name, rate in alone['gflops'].items()
        },
        peak_gb=gb,
        estimated_gb={name: each for name, each in estimates.items() if each},
        first_step_s={name: round(seconds, 2) for name, seconds in first.items()},
        too_large=too_large,
        kernels={name: each['kernels'] for name, each in profiles.items()},
        profile=profiles,
        says=sentence(rates, gb, estimates),
    )


def sentence(rates: dict, gb: dict, estimates: dict) -> str:
    words = [f'{NAMES.get(name, name)} {rate:,.0f}' for name, rate in rates.items()]
    estimate = f' (estimated {estimates["mirl"]:.1f})' if estimates['mirl'] else ''
    return f'images/s {", ".join(words)}; ours takes {gb["mirl"]:.1f} GB{estimate}'


def loops_of(bench: Bench) -> int:
    """Steps that are timed at once."""
    return 1 if bench.rehearse else LOOPS


def compared(
    runs: dict[str, Callable],
    ours: str,
    bench: Bench,
    rounds: int = ROUNDS,
    flops: dict[str, int] | None = None,
) -> dict:
    """Steps timed alternately, :func:`loops_of` at once; ``flops`` are those of one."""
    loops = loops_of(bench)
    repeated = {name: partial(repeat, run, loops) for name, run in runs.items()}
    counted = {name: loops * flops[name] for name in runs} if flops else None
    spent = alternate(repeated, 1 if bench.rehearse else rounds, bench.device)
    return summarise(spent, ours, bench.device, flops=counted)


def repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


def first_steps(
    runs: dict[str, Callable], made: dict[str, nn.Module], device: str
) -> tuple[dict[str, float], list[str]]:
    """Seconds of everyone's first step, in which code is compiled; drops those without room."""
    seconds, too_large = {}, []
    for name in [*runs]:
        try:
            seconds[name] = timed(runs[name], device).wall
        except torch.OutOfMemoryError as error:
            if name == 'mirl':
                raise LeftOut(f'out of memory: {str(error)[:200]}') from error
            del runs[name], made[name]
            too_large.append(name)
            error.__traceback__ = None  # it holds what had been computed
            forget(device)
    return seconds, too_large


def optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Each its own, at a rate that changes nothing."""
    found = optimizer_of(name.removesuffix(COMPILED), model)
    for group in found.param_groups:
        group['lr'] = LR
    return found


def fixed_bytes(model: nn.Module) -> int:
    """Weights, and AdamW's two moments of what is trained."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    return sum(size * (3 if trained else 1) for size, trained in sizes)


def estimated_gb(arch: str, batch: int, name: str) -> float | None:
    """What ``plan`` says, from results/largest_batch.json; None for peers and compiled models."""
    setting = dict(mirl='plain', checkpointed='with_cp').get(name)
    file = ROOT / 'benchmarks/results/largest_batch.json'
    found = json.loads(file.read_text())['archs'].get(arch, {}) if setting else {}
    if not found:
        return None
    return round(found[setting]['fixed_gb'] + batch * found[setting]['per_image_gb'], 2)


def undo(arch: str, batch: int, bench: Bench) -> dict:
    """The step with one idea undone, alternately; above all, masked tokens projected for each."""
    model = built(arch, bench, [])['mirl']
    side = model.backbone.img_size[0]
    imgs = torch.randn(batch, 3, side, side, device=bench.device)
    runs = ideas.steps(model, imgs, torch.bfloat16)
    found = compared(runs, 'as it is', bench, IDEA_ROUNDS)
    costs = {name: 1 / ratio['median'] for name, ratio in found['ratios'].items()}
    words = [f'{name} {cost:.3f}' for name, cost in costs.items()]
    return dict(
        arch=arch,
        batch=batch,
        loops=loops_of(bench),
        step=found,
        says=f'undone, an idea costs: {", ".join(words)} of the step',
    )
