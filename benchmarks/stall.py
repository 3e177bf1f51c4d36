"""How long a checkpoint stops the training.

    python -m benchmarks.stall [--gb 1 5] [--out benchmarks/results/stall_cpu.json]

A run whose step takes 20 ms saves once, in the middle: by MMEngine's CheckpointHook, by
SafeCheckpointHook made to wait for its thread, and by it as it is. The stall is what the iterations
from the save on take more than the median of those before, until the file is there. The state is
one of weights alone, of the given size in all: ViT-B-48 with AdamW has 5 GB.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mirl_mm.engine.hooks import SafeCheckpointHook
from mirl_mm.engine.run_facts import environment
from mirl_mm.engine.runner import MIRLRunner
from mirl_mm.files import write_json

STEP = 0.02  # seconds
TENSORS = 300  # about as many as ViT-B-48 has, without the small ones
SAVED_AT = 25  # iterations


class Weights(BaseModel):
    """So many bytes of frozen weights, and one that learns; a step sleeps, as a host does."""

    def __init__(self, size: float) -> None:
        super().__init__()
        shape = max(int(size / 4 / TENSORS), 1)
        weights = [nn.Parameter(torch.rand(shape), requires_grad=False) for _ in range(TENSORS)]
        self.weights, self.one = nn.ParameterList(weights), nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor, mode: str) -> dict[str, Tensor]:
        time.sleep(STEP)
        return dict(loss=self.one * inputs.float().mean())


class Waiting(SafeCheckpointHook):
    """As if nothing were written beside the training."""

    def _attempt(self, runner: MIRLRunner, *args, **kwargs) -> None:
        super()._attempt(runner, *args, **kwargs)
        self.flush(runner)


class Clock(Hook):
    """When each iteration ended, and when the checkpoint was there; then the run is over."""

    priority = 'LOWEST'

    def __init__(self, checkpoint: CheckpointHook) -> None:
        self.checkpoint = checkpoint
        self.ends: list[float] = []
        self.cpu: list[float] = []  # seconds of the training thread
        self.there: float | None = None

    def after_train_iter(self, runner: MIRLRunner, *args, **kwargs) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.thread_time())
        if len(self.ends) == SAVED_AT:
            self.checkpoint.interval = -1  # once
        if (Path(runner.work_dir) / f'iter_{SAVED_AT}.pth').is_file():
            self.there = self.there or self.ends[-1]
            runner.train_loop.stop_training = len(self.ends) >= SAVED_AT + 5


HOOKS = {
    'MMEngine': CheckpointHook,
    'SafeCheckpointHook, waiting': Waiting,
    'SafeCheckpointHook': SafeCheckpointHook,
}
_number = itertools.count()


def measure(model: Weights, hook: type[CheckpointHook], folder: Path) -> dict[str, float]:
    """Seconds of the stall, of CPU in it, of the longest iteration, and until the file is there."""
    saving = hook(interval=SAVED_AT, by_epoch=False, max_keep_ckpts=1, save_last=False)
    clock, data = Clock(saving), TensorDataset(torch.zeros(100_000, 1))
    runner = MIRLRunner(
        model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=data, batch_size=1, sampler=dict(type='InfiniteSampler', shuffle=False),
            collate_fn=lambda batch: dict(inputs=torch.stack([each[0] for each in batch])),
        ),
        train_cfg=dict(type='ExactIterLoop', max_iters=10_000),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1000)),
        custom_hooks=[saving, clock],
        experiment_name=f'stall-{next(_number)}', log_level='ERROR',
    )  # fmt: skip
    runner.train()
    steps = [b - a for a, b in itertools.pairwise(clock.ends)]
    usual = statistics.median(steps[5 : SAVED_AT - 2])
    began = clock.ends[SAVED_AT - 2]  # the end of the iteration before
    pairs = zip(steps, clock.ends[1:], strict=True)
    taken = [step for step, end in pairs if began < end <= clock.there]
    first, last = SAVED_AT - 2, SAVED_AT - 2 + len(taken)
    return dict(
        stall=sum(taken) - usual * len(taken),
        cpu=clock.cpu[last] - clock.cpu[first],
        longest=max(taken),
        written=clock.there - began,
    )


def compare(gb: float, rounds: int) -> list[dict]:
    """A row for every hook, with the seconds of each round."""
    model, found = Weights(1e9 * gb), {name: [] for name in HOOKS}
    for name, hook in [*HOOKS.items()] * rounds:
        with tempfile.TemporaryDirectory() as folder:
            found[name].append(measure(model, hook, Path(folder)))
    return [
        dict(gb=gb, hook=name, **{key: [round(each[key], 3) for each in rows] for key in rows[0]})
        for name, rows in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description='How long a checkpoint stops the training.')
    parser.add_argument('--gb', type=float, nargs='+', default=[1, 5], help='of the state (1 5)')
    parser.add_argument('--rounds', type=int, default=3, help='of each; the median counts (3)')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    rows = []
    for gb in args.gb:
        rows += compare(gb, args.rounds)
        for row in rows[-len(HOOKS) :]:
            print(row, file=sys.stderr)
    if args.out:
        write_json(args.out, dict(environment(), rows=rows))


if __name__ == '__main__':
    main()
