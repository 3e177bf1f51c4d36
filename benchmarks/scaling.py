"""How a step grows with depth, and what a second process costs.

    python -m benchmarks.scaling --out benchmarks/results/NAME.json

Depth: pre-training steps with 12, 24 and 48 encoder blocks and the same decoders, alternately; the
time must be a straight line. Processes: two with one thread each exchange gradients over gloo; each
times steps with and without the exchange (``no_sync``), so that both halves of the comparison meet
the same disturbances.
"""

import argparse
import functools
import os
import statistics

import torch
import torch.multiprocessing
from mmengine.registry import MODELS, init_default_scope
from torch import distributed, nn
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.nn.parallel import DistributedDataParallel

from benchmarks.pretrain_step import step
from benchmarks.timing import CLOCKS, add_out, alternate, save, spread, timed, use_threads

DEPTHS = (12, 24, 48)
WRAPPERS = {
    'default': dict(),
    'bucket view': dict(gradient_as_bucket_view=True),
    'bucket view, static graph': dict(gradient_as_bucket_view=True, static_graph=True),
}


def mirl(depth: int, width: int, img_size: int = 224) -> nn.Module:
    """A model of any depth, in training mode."""
    init_default_scope('mmpretrain')
    arch = dict(
        embed_dims=width,
        num_layers=depth,
        num_heads=width // 32,
        feedforward_channels=4 * width,
    )
    model = MODELS.build(
        dict(
            type='MIRL',
            backbone=dict(type='MIRLViT', arch=arch, img_size=img_size, num_segments=6),
            neck=dict(
                type='MIRLNeck',
                embed_dim=width,
                num_segments=6,
                decoder_embed_dim=width,
                decoder_depth=1,
                decoder_num_heads=width // 32,
            ),
            head=dict(type='MIRLHead'),
        )
    )
    model.init_weights()
    return model.train()


def depths(args: argparse.Namespace) -> dict:
    """Median seconds by depth, and how far the step from 24 to 48 is from twice that to 24."""
    imgs = torch.randn(args.batch, 3, 224, 224)
    runs = {
        f'{depth} blocks': functools.partial(step, mirl(depth, args.width), imgs, torch.float32)
        for depth in DEPTHS
    }
    spent = alternate(runs, args.rounds)
    seconds = {name: [round(getattr(s, args.clock), 4) for s in spent[name]] for name in runs}
    by_round = zip(*seconds.values(), strict=True)
    growth = [(deep - middle) / (middle - shallow) / 2 for shallow, middle, deep in by_round]
    medians = [statistics.median(each) for each in seconds.values()]
    middle_growth = (medians[2] - medians[1]) / (medians[1] - medians[0]) / 2
    print(f'from 24 to 48 blocks over twice from 12 to 24: {middle_growth:.3f} (1 is linear)')
    return dict(
        clock=args.clock,
        seconds=seconds,
        medians=dict(zip(seconds, medians, strict=True)),
        growth=spread(growth),
        growth_of_medians=round(middle_growth, 4),
    )


def processes(args: argparse.Namespace) -> dict:
    """Ratio of a step with the exchange of gradients to one without, by settings of DDP."""
    port = get_free_port()
    context = torch.multiprocessing.get_context('spawn')
    queue = context.Queue()
    torch.multiprocessing.spawn(one_process, (port, queue, args), nprocs=2, join=True)
    return queue.get()


def one_process(rank: int, port: int, queue, args: argparse.Namespace) -> None:
    """Time steps in one of two processes; the first reports."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group('gloo', rank=rank, world_size=2)
    imgs = torch.randn(args.batch, 3, 224, 224)
    found = {}
    for name, settings in WRAPPERS.items():
        model = Stepped(mirl(12, args.width))
        wrapped = DistributedDataParallel(model, broadcast_buffers=False, **settings)
        ratios, seconds = [], []
        for r in range(args.rounds + 2):
            with wrapped.no_sync():
                alone = timed(lambda w=wrapped: w(imgs).backward()) if r else None
            together = timed(lambda w=wrapped: w(imgs).backward())
            wrapped.zero_grad()
            if r >= 2:
                seconds.append(together.wall)
                ratios.append(together.wall / alone.wall)
        found[name] = dict(
            seconds=round(statistics.median(seconds), 4), with_over_without=spread(ratios)
        )
        if rank == 0:
            print(f'{name}: with / without exchange {found[name]["with_over_without"]["median"]}')
    if rank == 0:
        queue.put(found)
    distributed.destroy_process_group()


class Stepped(nn.Module):
    """The loss as forward, for DDP."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, imgs: torch.Tensor) -> torch.Tensor:
        return self.model.loss(imgs)['loss']


def main() -> None:
    parser = argparse.ArgumentParser(description='Step time by depth, and cost of processes.')
    parser.add_argument('--width', type=int, default=384)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, help="of the runs by depth; torch's own without it")
    parser.add_argument('--clock', default='wall', choices=CLOCKS, help='of the runs by depth')
    add_out(parser)
    args = parser.parse_args()
    use_threads(args)
    result = dict(depth=depths(args), processes=processes(args))
    save(args, result)


if __name__ == '__main__':
    main()
