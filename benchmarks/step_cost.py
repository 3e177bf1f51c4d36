"""What a pre-training step costs on paper, beside its peers: nothing is run, any machine will do.

    python -m benchmarks.step_cost --out benchmarks/results/NAME.json

Operations, bytes and kernels from a trace on tensors without contents (mirl_mm/measure/cost.py),
under autocast to bfloat16, and the floor that follows for some GPUs. Peers as in pretrain_step.
"""

import argparse
from collections.abc import Sequence

import torch
from mmengine.config import Config
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.pretrain_step import config_of, loss_of, plain
from benchmarks.timing import add_out, save
from mirl_mm.measure.cost import GPUS, Operation, cost
from mirl_mm.measure.rehearsal import build, passes, rehearse

SIZES = {'s54': 256, 'b48': 64}  # images of a step
DEVICES = ('A100', 'H100', 'H200')


def operations(name: str, arch: str, batch: int) -> list[Operation]:
    """Of one step of a model."""
    cfg = Config.fromfile(config_of('mirl' if name == 'plain' else name, arch)).model
    if name != 'plain':
        return rehearse(cfg, batch).operations
    with FakeTensorMode(allow_non_fake_inputs=True):
        mirl, _ = build(cfg)
        model = plain(mirl).train()
        imgs = torch.empty(batch, 3, *mirl.backbone.img_size)
        return passes(lambda: loss_of(model, imgs), torch.bfloat16)


def summary(found: Sequence[Operation]) -> dict:
    """Counts, the part that multiplies matrices, and images per second at best."""
    products = [each for each in found if each.flops]
    whole = cost(found, GPUS['H200'])
    floors = {name: cost(found, GPUS[name]).seconds for name in DEVICES}
    return dict(
        kernels=whole.kernels,
        gb=round(whole.bytes / 1e9, 1),
        tflop=round(whole.flops / 1e12, 2),
        floor_ms={name: round(seconds * 1e3, 1) for name, seconds in floors.items()},
        products={
            name: round(cost(products, GPUS[name]).seconds / floors[name], 2) for name in DEVICES
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description='What a pre-training step costs on paper.')
    parser.add_argument('--archs', nargs='+', default=list(SIZES), metavar='ARCH')
    parser.add_argument('--batch', type=int, help='images; 256 for s54 and 64 for b48 without it')
    add_out(parser)
    args = parser.parse_args()
    result = {}
    for arch in args.archs:
        batch = args.batch or SIZES.get(arch, 32)
        models = {n: summary(operations(n, arch, batch)) for n in ('mirl', 'mae', 'plain')}
        result[arch] = dict(batch=batch, models=models)
        for name, found in models.items():
            print(f'{arch}, batch {batch}, {name}: {found}')
    save(args, dict(archs=result))


if __name__ == '__main__':
    main()
