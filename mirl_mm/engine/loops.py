"""Training loops that a killed run takes up again to the bit, in the middle of an epoch too.

What decides: random numbers belong to their place (see seeding.py), the loader starts at any batch
without loading those before, the micro-batches of an open accumulation are run again, and a
validation that the kill may have cut short is made up for. The rest (weights, optimizer, loss
scale, averages, schedules, logs) is in MMEngine's checkpoint.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from mirl_mm.models.segments import is_sharded, unwrapped

from .seeding import STEP, SeededLoader, kept_buffers, kept_random_state, seed_everything
from .stopping import ENDED, RUNNING

VALIDATED = 'iter_validated'  # in the message hub, so in every checkpoint (val... is for logs)


def base_seed(runner: Runner) -> int:
    """The run's seed, the same on every process (a resumed run takes its checkpoint's)."""
    return runner.seed - (get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0)


class ExactLoop:
    """What both loops share; ``train`` is the loop itself."""

    by_epoch = False

    def __init__(self, runner: Runner, dataloader: dict, **settings) -> None:
        if isinstance(dataloader, dict):
            different = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, runner.seed, different)
        super().__init__(runner, SeededLoader(dataloader), **settings)

    def run(self) -> nn.Module:
        stopping = self.dataloader.stopping
        stopping.fill_(RUNNING)
        try:
            self.runner.call_hook('before_train')
            self.train()
            self.runner.call_hook('after_train')
        finally:
            stopping.fill_(ENDED)  # else workers that were told to outlive SIGTERM would stay
        return self.runner.model

    def seed_step(self, iteration: int) -> None:
        """Set the random numbers that the model draws in an iteration."""
        seed_everything(STEP, base_seed(self.runner), iteration, get_rank())

    def run_iter(self, *args) -> None:
        self.seed_step(self._iter)
        super().run_iter(*args)

    def validate(self, made_up: bool = False) -> None:
        """Validate where the interval says so; ``made_up``: at the start, what a kill cut short."""
        hub = MessageHub.get_current_instance()
        if made_up and (self._iter == 0 or hub.get_info(VALIDATED, -1) == self._iter):
            return
        self._decide_current_val_interval()
        done, end = self._iter, self._max_iters
        if self.by_epoch:
            done, end = self._epoch, self._max_epochs
        if self.runner.val_loop is None or done < self.val_begin:
            return
        if done % self.val_interval == 0 or done == end:
            hub.update_info(VALIDATED, self._iter)  # first: a new best is saved on the way
            self.runner.val_loop.run()

    def run_again(self) -> Iterator:
        """Rebuild the gradients of an open accumulation; the batches that come next, for ever."""
        runner, wrapper, count = self.runner, self.runner.optim_wrapper, 0
        if isinstance(wrapper, OptimWrapper) and self._iter < self._max_iters:
            count = self._iter % wrapper._accumulative_counts
        first = self._iter - count
        number = first and first // len(self.dataloader) if self.by_epoch else 0
        batches = self.dataloader.endless(base_seed(runner), first, number)
        if count == 0:
            return batches
        runner.logger.info(f'running {count} micro-batches of the open accumulation again')
        runner.model.train()
        with kept_buffers(runner.model):  # running averages have seen these batches already
            for iteration in range(first, self._iter):
                batch = next(batches)
                wrapper._inner_count = iteration
                self.seed_step(iteration)
                runner.model.train_step(batch, optim_wrapper=wrapper)
        return batches

    @contextmanager
    def repeating(self, iteration: int) -> Iterator[Callable[[], dict] | None]:
        """Inside, the run stands at a past iteration, and goes on afterwards as if it had not.

        Gives what repeats the iteration's forward pass and returns its losses; None where the batch
        is not remembered, or a process has but a part of the weights.
        """
        model, wrapper, now = unwrapped(self.runner.model), self.runner.optim_wrapper, self._iter
        with kept_random_state():
            batch = self.dataloader.again(iteration)

            def forward() -> dict:
                self.seed_step(iteration)
                with wrapper.optim_context(model):
                    data = model.data_preprocessor(batch, True)
                    losses = model._run_forward(data, mode='loss')
                return model.parse_losses(losses)[1]

            whole = isinstance(wrapper, OptimWrapper) and not is_sharded(self.runner.model)
            self._iter = iteration
            try:
                yield forward if whole and batch is not None else None
            finally:
                self._iter = now


@LOOPS.register_module()
class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):
    """EpochBasedTrainLoop, exact when resumed. Args are its own."""

    by_epoch = True

    def train(self) -> None:
        self.run_again()
        if self._iter == self._epoch * len(self.dataloader):
            self.validate(made_up=True)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self.validate()

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first = self._iter - self._epoch * len(self.dataloader)
        batches = self.dataloader.one_pass(base_seed(self.runner), self._epoch, first)
        for index, batch in enumerate(batches, first):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ExactIterLoop(ExactLoop, IterBasedTrainLoop):
    """IterBasedTrainLoop, exact when resumed. Args are its own."""

    def train(self) -> None:
        self.runner.call_hook('before_train_epoch')
        batches = self.run_again()
        self.validate(made_up=True)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self.validate()
        self.runner.call_hook('after_train_epoch')
