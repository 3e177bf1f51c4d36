"""Stage 3: encoders on large images, and whole detectors and segmentors, in bfloat16."""

import importlib
from functools import partial

import torch

from benchmarks.dense_step import WHOLE, encoders, step, whole
from benchmarks.timing import peak_bytes, spread
from mirl_mm.engine.hooks import Float32BoxesHook

from .device import profile_of
from .ops import need_ops
from .pretrain import compared, first_steps, loops_of
from .stage import Bench, LeftOut, Part

SIZES = {  # of the rehearsal or not: arch, pixels, batch
    False: dict(
        encoders=[('s54', 1024, 4), ('b48', 1024, 2), ('b12', 1024, 4)],
        whole=[
            ('mask-rcnn', 'b12', 1024, 2), ('upernet', 'b12', 512, 4),
            ('mask-rcnn', 's54', 1024, 2), ('upernet', 's54', 512, 4),
            ('mask-rcnn', 'b48', 1024, 2), ('upernet', 'b48', 512, 4),
        ],
    ),
    True: dict(
        encoders=[('test', 256, 1)],
        whole=[('mask-rcnn', 'test', 128, 2), ('upernet', 'test', 128, 2)],
    ),
}  # fmt: skip


def sizes(rehearse: bool) -> dict:
    return SIZES[rehearse]


def parts(rehearse: bool) -> list[Part]:
    size = SIZES[rehearse]
    found = [
        Part(f'{arch} {pixels} px', partial(compare, arch, pixels, batch), 35, 40)
        for arch, pixels, batch in size['encoders']
    ]
    return found + [
        Part(f'{name} {arch}', partial(whole_step, name, arch, pixels, batch), 30, 40)
        for name, arch, pixels, batch in size['whole']
    ]


def compare(arch: str, pixels: int, batch: int, bench: Bench) -> dict:
    """Windows, windows cut in every block, global attention, and windows checkpointed."""
    device = bench.device
    with torch.device(device):
        made = encoders(arch, None, checkpointed=True, init=False)
    imgs = torch.randn(batch, 3, pixels, pixels, device=device)
    for model in made.values():
        model.to(device).train()
    runs = {name: partial(step, model, imgs, torch.bfloat16) for name, model in made.items()}
    first, too_large = first_steps(runs, made, device)
    loops, found = loops_of(bench), compared(runs, 'windows', bench)
    for model in made.values():
        model.zero_grad(set_to_none=True)
    peak = {name: round(peak_bytes(run, device) / 1e9, 3) for name, run in runs.items()}
    rates = {name: round(loops * batch / s, 2) for name, s in found['medians'].items()}
    words = [f'{name} {rate:,.1f}' for name, rate in rates.items()]
    return dict(
        arch=arch,
        pixels=pixels,
        batch=batch,
        loops=loops,
        images_per_s=rates,
        step=found,
        peak_gb=peak,
        too_large=too_large,
        first_step_s={name: round(seconds, 2) for name, seconds in first.items()},
        profile=profile_of(runs['windows'], device),
        says=f'images/s {", ".join(words)}',
    )


def whole_step(name: str, arch: str, pixels: int, batch: int, bench: Bench) -> dict:
    """Forward and backward of a whole model on random images, and the backbone's share."""
    device, dtype = bench.device, torch.bfloat16
    check_packages(name, device)
    model, loss = whole(name, arch, pixels, batch, device)
    if name == 'mask-rcnn':
        hook = Float32BoxesHook()
        hook.before_run(type('Run', (), dict(model=model)))
    imgs = torch.randn(batch, 3, pixels, pixels, device=device)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype):
            value = loss()
        value.backward()

    runs = {name: run, 'backbone': partial(step, model.backbone, imgs, dtype)}
    run()
    model.zero_grad(set_to_none=True)
    peak = peak_bytes(run, device)
    loops, found = loops_of(bench), compared(runs, 'backbone', bench)
    seconds = found['seconds']
    share = spread([b / a for a, b in zip(seconds[name], seconds['backbone'], strict=True)])
    rate = loops * batch / found['medians'][name]
    return dict(
        arch=arch,
        pixels=pixels,
        batch=batch,
        loops=loops,
        images_per_s=round(rate, 2),
        step=found,
        backbone_share=share,
        peak_gb=round(peak / 1e9, 3),
        profile=profile_of(run, device),
        says=f'{rate:,.1f} images/s, {share["median"]:.0%} of it the backbone, {peak / 1e9:.1f} GB '
        'without weights',
    )


def check_packages(name: str, device: str) -> None:
    """LeftOut where the library that a model needs is not there, or mmcv's ops are not."""
    if name == 'mask-rcnn':
        need_ops(device)
    package = WHOLE[name][1]
    try:
        importlib.import_module(package)
    except (ImportError, AssertionError) as error:  # the latter: of versions that it refuses
        raise LeftOut(f'{package} cannot be imported: {error}') from error
