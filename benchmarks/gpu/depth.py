"""Stage 5: does depth help, and does MAE lose it? MIRL and MAE at 12, 24 and 48 blocks.

Tiny-ImageNet-100 at 64 px, patches of 8, 192 wide, batch 1024. One number of epochs for all runs,
at most 300: chosen once from what 100 steps of every (method, depth) take and the time that is
left, so that one seed of each fits; it is kept in the results, and later calls add to them.
"""

import itertools
import time
from argparse import Namespace
from functools import partial

import torch

from benchmarks.images import Labelled, read_folders
from benchmarks.study.grid import METHODS, UNTRAINED
from benchmarks.timing import synchronise

from . import study
from .stage import Bench, LeftOut, Part, Record
from .study import Setting

EPOCHS, LEAST = 300, 20
SPARE = 0.85  # of the time that is left goes to the first six runs
PLAN = 'plan'
SIZES = {  # of the rehearsal or not; steps: of the measurement
    False: dict(width=192, side=64, patch=8, batch=1024, depths=[48, 12, 24], seeds=[0, 1, 2],
                steps=100, neighbours=20, evaluation_s=2),
    True: dict(width=32, side=16, patch=4, batch=16, depths=[12], seeds=[0], steps=2, neighbours=5,
               evaluation_s=0),
}  # fmt: skip


def sizes(rehearse: bool) -> dict:
    return SIZES[rehearse]


def why_not(args: Namespace) -> str:
    """A reason not to start; empty where there is none."""
    if args.rehearse:
        return ''
    if args.data is None:
        return 'it needs Tiny-ImageNet-100: --data DIR with {train,val}/<class>/*.JPEG'
    missing = [name for name in ('train', 'val') if not (args.data / name).is_dir()]
    if missing:
        return f'{args.data} has no folder {" and no ".join(missing)}'
    planned = Record(args.out / 'depth.json').found.get(PLAN, {}).get('epochs')
    if None not in (planned, args.epochs) and planned != args.epochs:
        return f'its runs have {planned} epochs, and --epochs is {args.epochs}: give another --out'
    return ''


def parts(rehearse: bool) -> list[Part]:
    size = SIZES[rehearse]
    first, *others = size['seeds']
    runs = [
        *itertools.product(size['depths'], METHODS, [first]),
        *itertools.product(size['depths'], [UNTRAINED], [first]),
        *((depth, method, seed) for seed in others
          for depth in size['depths'] for method in METHODS),
    ]  # fmt: skip

    def run(depth: int, method: str, seed: int) -> Part:
        needs = partial(seconds_of, size, method, depth)
        name = f'{method} {depth}, seed {seed}'
        return Part(name, partial(one, size, method, depth, seed), 0, 20, needs)

    return [Part(PLAN, partial(plan, size), 60, 20), *(run(*each) for each in runs)]


def seconds_of(size: dict, method: str, depth: int, found: dict[str, dict]) -> float:
    """What a run will take, by the plan; without one it has to wait."""
    if PLAN not in found:
        return float('inf')
    rate = found[PLAN]['epoch_s'].get(f'{method} {depth}', 0.0)
    return found[PLAN]['epochs'] * rate / SPARE + evaluation_s(size, depth)


_LOADED: dict[str, tuple[Labelled, Labelled]] = {}  # once a process


def data_of(size: dict, bench: Bench) -> tuple[Labelled, Labelled]:
    """Training and held-out images, on the device."""
    if 'sets' not in _LOADED:
        if bench.rehearse:
            _LOADED['sets'] = made_up(size, 48), made_up(size, 16)
        else:
            read = [read_folders(bench.data / name, size['side'], bench.device)
                    for name in ('train', 'val')]  # fmt: skip
            _LOADED['sets'] = (read[0], read[1])
    return _LOADED['sets']


def made_up(size: dict, count: int) -> Labelled:
    """Random images of four classes, for a rehearsal."""
    shape = (count, 3, size['side'], size['side'])
    return Labelled(torch.randint(0, 256, shape, dtype=torch.uint8), torch.arange(count) % 4)


def setting_of(size: dict, epochs: int, bench: Bench) -> Setting:
    keys = ('width', 'side', 'patch', 'batch', 'neighbours')
    return Setting(epochs=epochs, device=bench.device, **{key: size[key] for key in keys})


def plan(size: dict, bench: Bench) -> dict:
    """Seconds of an epoch by method and depth, and the number of epochs that fits."""
    images = data_of(size, bench)[0].images
    setting, per_epoch, epoch_s = setting_of(size, EPOCHS, bench), len(images) // size['batch'], {}
    for depth, method in itertools.product(size['depths'], METHODS):
        model = study.model_of(method, depth, setting)
        study.train(model, images, setting, 0, stop=max(size['steps'] // 10, 1))
        synchronise(bench.device)
        began = time.perf_counter()
        steps = study.train(model, images, setting, 0, stop=size['steps'])
        synchronise(bench.device)
        epoch_s[f'{method} {depth}'] = (time.perf_counter() - began) / steps * per_epoch
    epochs = 1 if bench.rehearse else bench.epochs
    if epochs is None:
        epochs = fitting_epochs(size, epoch_s, bench.seconds_left())
    return dict(
        epochs=epochs,
        epoch_s={name: round(seconds, 4) for name, seconds in epoch_s.items()},
        says=f'{epochs} epochs; one takes '
        + ', '.join(f'{name} {seconds:.2f} s' for name, seconds in epoch_s.items()),
    )


def fitting_epochs(size: dict, epoch_s: dict[str, float], left: float) -> int:
    """So many that one seed of each run fits into the seconds that are left.

    Raises:
        LeftOut: they are too few to say anything.
    """
    probing = sum(len(METHODS) * evaluation_s(size, depth) for depth in size['depths'])
    fitting = int(SPARE * (left - probing) / sum(epoch_s.values()))
    if fitting < LEAST:
        raise LeftOut(
            f'{max(fitting, 0)} epochs would fit into the {left:.0f} seconds that are left, and '
            f'fewer than {LEAST} say nothing: give more --minutes, or --epochs'
        )
    return min(EPOCHS, fitting)


def evaluation_s(size: dict, depth: int) -> float:
    """Seconds that probing all blocks takes, roughly."""
    return size['evaluation_s'] * depth / 12


def one(size: dict, method: str, depth: int, seed: int, bench: Bench) -> dict:
    """A row of the study."""
    sets = data_of(size, bench)
    found = study.row(
        method, depth, seed, *sets, setting_of(size, bench.found[PLAN]['epochs'], bench)
    )
    error = found['held_out_error']
    words = '' if error is None else f'{found["epochs"]} epochs, held-out error {error:.4f}, '
    rate = '' if error is None else f'; {found["images_per_s"]:,.0f} images/s'
    return found | dict(
        says=f'{words}20-NN best {max(found["knn20"]):.1f} and last {found["knn20"][-1]:.1f} %, '
        f'ridge best {max(found["ridge"]):.1f} and last {found["ridge"][-1]:.1f} %{rate}'
    )
