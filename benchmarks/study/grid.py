"""The runs of the study, declared once.

Grid ``tiny``: MIRL and MAE on Tiny-ImageNet-100, and their encoder untrained, at three depths; each
length has three seeds. Grid ``camvid``: MIRL on CamVid's images, then UperNet with all labels and
with a tenth of them, against UperNet from scratch at as many iterations and at as much time. Grid
``ablation``: MIRL at the least depth for one epoch of grid ``tiny``, one setting changed at a time.
Grid ``demo``: what ``make demo`` runs, from encoders of several lengths, of MAE and from scratch.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

VERSION = 1  # of what a row means: rows of another one are not compared
DEPTHS, SEEDS = (12, 24, 48), (0, 1, 2)
METHODS = ('mirl', 'mae')
EPOCHS = (10, 4, 16)  # of Tiny-ImageNet-100's 35,000 images; the first is filled first
RATE, RATES = 2e-3, (1e-3, 2e-3, 4e-3, 8e-3)  # of batches of 64; the tries of the search
WARM_UP = 40 / 300  # share of the epochs, as in the official recipe
UNTRAINED, SCRATCH, SCRATCH_LONG = 'untrained', 'scratch', 'scratch-long'
CAMVID_IMAGES, FEW = 367, 10  # training images; of UperNet, every tenth where labels are few
LABELS = dict(all=CAMVID_IMAGES, few=len(range(0, CAMVID_IMAGES, FEW)))  # images that have some
PART = 4  # grid ``ablation`` is probed behind every so many blocks
CHANGES = {  # of grid ``ablation``: what is set, by name; the first is the method as it is
    '': {},
    'neighbours': {'model.head.pairing': 'neighbours'},
    'unpaired': {'model.head.pairing': 'none'},
    'no-context': {'model.neck.context': False},
    'segments-2': {'model.backbone.num_segments': 2},
    'segments-4': {'model.backbone.num_segments': 4},
    'decoders-2': {'model.neck.decoder_depth': 2},
    'decoders-4': {'model.neck.decoder_depth': 4},
    'mask-0.6': {'model.backbone.mask_ratio': 0.6},
    'mask-0.9': {'model.backbone.mask_ratio': 0.9},
}
DEMO_IMAGES, DEMO_EPOCHS = 2000, (12, 24, 48)  # unlabelled scenes; the last is what the demo takes
DEMO_MAE = 42  # of MAE, which takes as much time as the last
DEMO_RATE = 2.5e-3  # of batches of 32
CAMVID_EPOCHS = 300  # of CamVid's training images, or of as many of both sources together


class Run(NamedTuple):
    """One run: what is trained, how long, from which seed."""

    grid: str  # 'tiny', 'camvid', 'ablation' or 'demo'
    method: str
    depth: int  # blocks
    epochs: int  # of pre-training
    seed: int  # of weights, order, crops and masks
    data: str  # to pre-train on
    rate: float = RATE  # of pre-training; 0 without
    change: str = ''  # one of CHANGES

    @property
    def name(self) -> str:
        words = [self.grid, self.method, self.depth]
        words += [f'{self.epochs}e'] if self.epochs else []
        words += [self.data] if self.grid == 'camvid' and self.epochs else []
        words += [f'lr{self.rate:g}'] if self.grid == 'tiny' and self.rate not in (0, RATE) else []
        words += [self.change] if self.change else []
        return '-'.join(map(str, [*words, f's{self.seed}']))


def tiny() -> list[Run]:
    """Grid A: the chosen rate's runs seed by seed, then the other lengths, then the search's."""
    data = 'tiny-imagenet-100'
    runs = [
        Run('tiny', method, depth, epochs, seed, data)
        for epochs in EPOCHS
        for seed in SEEDS
        for depth in DEPTHS
        for method in METHODS
    ]
    untrained = [Run('tiny', UNTRAINED, d, 0, seed, data, 0.0) for seed in SEEDS for d in DEPTHS]
    tries = [Run('tiny', m, DEPTHS[0], 1, 0, data, rate) for rate in RATES for m in METHODS]
    first = len(SEEDS) * len(DEPTHS) * len(METHODS)
    return [*runs[:first], *untrained, *tries, *runs[first:]]


def camvid() -> list[Run]:
    """Grid B."""
    starts = [
        ('mirl', CAMVID_EPOCHS, 'camvid', RATE),
        ('mirl', CAMVID_EPOCHS, 'camvid+tiny', RATE),
        (SCRATCH, 0, '', 0.0),
        (SCRATCH_LONG, 0, '', 0.0),
    ]
    return [
        Run('camvid', method, DEPTHS[0], epochs, seed, data, rate)
        for seed in SEEDS
        for method, epochs, data, rate in starts
    ]


def ablation() -> list[Run]:
    """Grid C, seed by seed."""
    settings = 'ablation', METHODS[0], DEPTHS[0], 1
    data = 'tiny-imagenet-100'
    return [Run(*settings, seed, data, change=change) for seed in SEEDS for change in CHANGES]


def demo() -> list[Run]:
    """Grid D: what the demo compares, seed by seed, then shorter pre-trainings."""
    *shorter, longest = DEMO_EPOCHS
    first = [('mirl', longest, DEMO_RATE), (SCRATCH, 0, 0.0), ('mae', DEMO_MAE, DEMO_RATE)]
    then = [('mirl', epochs, DEMO_RATE) for epochs in shorter]
    return [
        Run('demo', method, DEPTHS[0], epochs, seed, 'scenes', rate)
        for starts in (first, then)
        for seed in SEEDS
        for method, epochs, rate in starts
    ]


RUNS = {run.name: run for run in [*tiny(), *camvid(), *ablation(), *demo()]}


def chosen(patterns: list[str] | None) -> list[Run]:
    """The runs whose names fit one of the patterns (``*`` and ``?``); all for None.

    Raises:
        ValueError: a pattern that fits none.
    """
    for pattern in patterns or []:
        if not any(fnmatchcase(name, pattern) for name in RUNS):
            raise ValueError(
                f'no run of the grid is called {pattern}: names are like {next(iter(RUNS))} '
                '(benchmarks.study list shows all), and * stands for anything'
            )
    wanted = patterns or ['*']
    return [run for name, run in RUNS.items() if any(fnmatchcase(name, p) for p in wanted)]
