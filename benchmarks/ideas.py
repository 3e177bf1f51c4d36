"""What each idea for the pre-training step gains: the step with one of them undone, alternately.

    python -m benchmarks.ideas --arch s54 --batch 8 --out benchmarks/results/NAME.json

Undone, an idea costs time and changes no number; a test says so. A step is forward and backward;
the optimizer's step is timed for itself.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from benchmarks.pretrain_step import build, step
from benchmarks.timing import add_options, alternate, save, show, summarise, use_threads
from mirl_mm.models import ARCHS
from mirl_mm.models.decoder import DecoderBlock, Layout
from mirl_mm.models.half import Layers
from mirl_mm.models.neck import MIRLNeck

FUSED = dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
OPTIMIZERS = {  # constructor and AdamW
    'one group, fused': ('MergedOptimWrapperConstructor', FUSED),
    'one group, not fused': ('MergedOptimWrapperConstructor', FUSED | dict(fused=None)),
    'a group per parameter, fused': ('DefaultOptimWrapperConstructor', FUSED),
    'a group per parameter, not fused': (
        'DefaultOptimWrapperConstructor',
        FUSED | dict(fused=None),
    ),
}


def paint_all(neck: MIRLNeck, features) -> tuple[Tensor, ...]:
    """Paint every patch, then take the masked ones."""
    visible = features.stem.shape[1]
    return tuple(pred[:, visible:] for pred in neck._paint(features, slice(None)))


def project_all(
    block: DecoderBlock, run: Layers, tokens: Tensor, context: Tensor, layout: Layout
) -> Tensor:
    """A decoder's first block on whole sequences, masked tokens repeated for every image."""
    return block(run, F.embedding(layout.sequences, tokens), context, layout.wanted)


def attend_explicitly(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0, fp32: bool = False
) -> Tensor:
    """Softmax of the products, written out."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


UNDONE = {
    'all patches painted': [(MIRLNeck, 'paint_masked', paint_all)],
    'every token projected': [(DecoderBlock, 'first', project_all)],
    'explicit attention': [
        ('mirl_mm.models.block.attend', attend_explicitly),
        ('mirl_mm.models.decoder.attend', attend_explicitly),
    ],
}


@contextlib.contextmanager
def undone(name: str) -> Iterator[None]:
    """The models of this process without an idea."""
    with contextlib.ExitStack() as stack:
        for place in UNDONE[name]:
            patch = mock.patch if isinstance(place[0], str) else mock.patch.object
            stack.enter_context(patch(*place))
        yield


def steps(model: nn.Module, imgs: Tensor, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """A step as it is, and one without each idea."""

    def without(name: str) -> None:
        with undone(name):
            step(model, imgs, dtype)

    return {'as it is': functools.partial(step, model, imgs, dtype)} | {
        name: functools.partial(without, name) for name in UNDONE
    }


def updates(model: nn.Module) -> dict[str, Callable[[], None]]:
    """An update by each of :data:`OPTIMIZERS`; gradients are there."""
    paramwise = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 1e-4)
    return {
        name: build_optim_wrapper(
            model,
            dict(
                type='OptimWrapper',
                optimizer=dict(optimizer),
                constructor=constructor,
                paramwise_cfg=paramwise,
            ),
        ).optimizer.step
        for name, (constructor, optimizer) in OPTIMIZERS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='What each idea gains.')
    parser.add_argument('--arch', default='s54', choices=ARCHS)
    parser.add_argument('--batch', type=int, default=8)
    add_options(parser)
    args = parser.parse_args()
    use_threads(args)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = build('mirl', args.arch).to(device).train()
    side = model.backbone.img_size[0]
    imgs = torch.randn(args.batch, 3, side, side, device=device)
    spent = alternate(steps(model, imgs, getattr(torch, args.dtype)), args.rounds, device)
    result = dict(step=summarise(spent, 'as it is', device, args.clock))
    spent = alternate(updates(model), args.rounds, device)
    result['update'] = summarise(spent, 'one group, fused', device, args.clock)
    for part in result.values():
        show(part)
    save(args, result)


if __name__ == '__main__':
    main()
