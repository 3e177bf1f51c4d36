"""Random numbers that belong to a place in the run, whatever happened before it.

Every sample is augmented from (seed, pass over the data, position in it), and every step draws its
masks, drop paths and mixes from (seed, iteration, process). So a run that starts again in the
middle draws what it would have drawn, nothing of a worker's or a device's random state has to be
saved, and neither validation nor the number of workers leaves a trace in training.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mirl_mm.errors import UserError

from .stopping import start_worker

SAMPLE, STEP = 0, 1  # first number of a key, so that the two never share one


def seed_everything(*key: int, devices: bool = True) -> None:
    """Seed Python, NumPy and torch with a hash of any number of non-negative numbers.

    torch's generators of all ``devices``, or the CPU's alone (for loader workers).
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    seed = int.from_bytes(words[:2].tobytes(), 'little')
    (torch if devices else torch.default_generator).manual_seed(seed)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Whatever happens inside, the next random numbers are those that would have come."""
    state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the model's buffers (running averages) are as they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


class SeededLoader:
    """A DataLoader that can start anywhere, with every sample seeded by its place.

    All else is the loader's own: hooks see its dataset, sampler, length and stock batches.
    """

    def __init__(self, loader: DataLoader) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            given = f'{type(loader.dataset).__name__} with batch_size={loader.batch_size}'
            how = 'give train_cfg.type=EpochBasedTrainLoop or IterBasedTrainLoop'
            raise UserError(f'to resume to the bit takes indices and batches; for {given}, {how}')
        self.loader = loader
        self.stopping = torch.zeros(1, dtype=torch.int8).share_memory_()  # see stopping.py
        self._draws = _Draws(loader)

    def __getattr__(self, name: str) -> object:
        if name == 'loader':  # not set yet: a copy under construction
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        yield from self.loader

    def one_pass(self, seed: int, number: int, first: int = 0) -> Iterator:
        """Batches of a pass over the data, from ``first`` on; those before are not loaded."""
        before = number * len(self)
        if self._draws.start(seed, number, first, before) == first and first < len(self):
            yield from self._seeded

    def endless(self, seed: int, first: int, number: int) -> Iterator:
        """The run's batches from the ``first`` on, which is in pass ``number`` or a later one."""
        before = number and number * len(self)  # batches of the passes before
        while True:
            left_out = self._draws.start(seed, number, max(first - before, 0), before)
            if before + left_out >= first:
                yield from self._seeded
            if self._draws.given == 0:
                raise UserError('the training set gives no batch: see batch_size and drop_last')
            before += self._draws.given
            number += 1

    def remember(self, iterations: int) -> None:
        """Keep what is needed to load the batches of the latest iterations once more."""
        ahead = self.loader.num_workers * (self.loader.prefetch_factor or 0)
        self._draws.kept = deque(maxlen=iterations + ahead)

    def again(self, iteration: int) -> object:
        """The batch of an iteration, loaded here and as it was; None if it is not remembered.

        Seeds this process: see :func:`kept_random_state`.
        """
        if (draws := dict(self._draws.kept).get(iteration)) is None:
            return None
        dataset = _SeededDataset(self.loader.dataset)
        return self.loader.collate_fn([dataset[draw] for draw in draws])

    @cached_property
    def _seeded(self) -> DataLoader:
        loader = self.loader
        names = ['num_workers', 'collate_fn', 'pin_memory', 'timeout', 'multiprocessing_context']
        names += ['pin_memory_device', 'prefetch_factor', 'persistent_workers']
        return DataLoader(
            _SeededDataset(loader.dataset),
            batch_sampler=self._draws,
            worker_init_fn=partial(start_worker, loader.worker_init_fn, self.stopping),
            **{name: getattr(loader, name) for name in names},
        )


class _SeededDataset(Dataset):
    """Takes (index, key) and seeds before the sample is read and augmented."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: tuple[int, tuple[int, ...]]) -> object:
        index, key = draw
        seed_everything(*key, devices=False)
        return self.dataset[index]


class _Draws:
    """A batch sampler's batches with a key for every sample.

    The key's last number is the sample's position among those of all processes, as DefaultSampler
    and InfiniteSampler deal them out: it does not depend on the number of processes.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.batches: Iterator = iter(())
        self.given = 0  # batches of the pass so far
        self.kept: deque[tuple[int, list]] = deque(maxlen=0)  # (iteration, its draws)

    def start(self, seed: int, number: int, first: int, before: int) -> int:
        """Open a pass with ``before`` batches before it; leaves out its first, says how many."""
        batch_sampler = self.loader.batch_sampler
        for part in (batch_sampler, getattr(batch_sampler, 'sampler', None)):
            if hasattr(part, 'set_epoch'):
                part.set_epoch(number)
        self.given, self.batches = 0, self._keyed(seed, number, before)
        while self.given < first and next(self.batches, None) is not None:
            pass
        return self.given

    def __iter__(self) -> Iterator:
        return self.batches

    def _keyed(self, seed: int, number: int, before: int) -> Iterator[list]:
        rank, processes = get_dist_info()
        drawn = 0
        for batch in self.loader.batch_sampler:
            places = enumerate(batch, drawn)
            draws = [(i, (SAMPLE, seed, number, n * processes + rank)) for n, i in places]
            self.kept.append((before + self.given, draws))
            self.given += 1
            yield draws
            drawn += len(batch)
