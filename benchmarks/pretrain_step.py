"""Step time of MIRL against its peers, alternately in one process.

    python -m benchmarks.pretrain_step --arch s54 --batch 8 --out benchmarks/results/NAME.json

A step is forward and backward on random images. ``--update`` times whole steps as well, each with
its own optimizer: ours as in the configs, MAE's as in mmpretrain's, plain AdamW as torch makes it.

Peers: mmpretrain's MAE on the same encoder with 8 decoder blocks of the neck's width, and the plain
transcription of the equations in tests/reference.py (explicit attention, nothing fused or left
out); on a GPU all run in bfloat16. On a machine with other work: ``--threads 1 --clock cpu``.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from benchmarks.timing import (
    add_options,
    alternate,
    peak_bytes,
    profiled,
    save,
    show,
    summarise,
    use_threads,
)
from mirl_mm.measure.cost import flops
from mirl_mm.models.archs import ARCHS
from tests.reference import Reference

ROOT = Path(__file__).parents[1]
PEERS = ('mae', 'plain')
VARIANTS = {  # settings of both MIRLViT and MIRLNeck
    'compiled': dict(compile_blocks=True),
    'checkpointed': dict(with_cp=True),
}


def config_of(method: str, arch: str) -> Path:
    """The shipped config of a method's shortest pre-training."""
    return ROOT / f'configs/{method}/vit-{arch}_{"2e" if arch == "test" else "300e"}.py'


def models(
    arch: str, device: str, names: list[str], variants: dict = VARIANTS, init: bool = True
) -> dict[str, nn.Module]:
    """``mirl`` and, by name, its variants and peers; without init as torch draws its layers."""
    init_default_scope('mmpretrain')
    mirl = build('mirl', arch, init=init)
    built = {'mirl': mirl}
    for name in names:
        if name in variants:
            built[name] = build('mirl', arch, variants[name], init)
            built[name].load_state_dict(mirl.state_dict())
        elif name == 'mae':
            built[name] = build('mae', arch, init=init)
        else:
            built[name] = plain(mirl)
    return {name: model.to(device).train() for name, model in built.items()}


def build(method: str, arch: str, settings: dict | None = None, init: bool = True) -> nn.Module:
    """From the shipped config."""
    cfg = Config.fromfile(config_of(method, arch)).model
    if settings:
        cfg.backbone.update(settings)
        cfg.neck.update(settings)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    if init:
        model.init_weights()
    return model


def plain(mirl: nn.Module) -> Reference:
    """The transcription at the same size."""
    backbone, neck = mirl.backbone, mirl.neck
    decoder = neck.decoders[0]
    return Reference(
        img_size=backbone.img_size,
        patch=backbone.patch_size,
        width=backbone.embed_dims,
        depth=backbone.num_layers,
        heads=backbone.arch_settings['num_heads'],
        decoder_width=decoder.embed.out_features,
        decoder_depth=len(decoder.blocks),
        decoder_heads=decoder.blocks[0].num_heads,
        segments=neck.num_segments,
    )


def step(model: nn.Module, imgs: torch.Tensor, dtype: torch.dtype) -> None:
    """One forward and backward pass."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(imgs.device.type, dtype, enabled=dtype != torch.float32):
        loss = loss_of(model, imgs)
    loss.backward()


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """What a user of each gets: ours, of mmpretrain's MAE recipe, or torch's AdamW."""
    settings = dict(lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05)
    if name == 'plain':
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, **settings)
    if name == 'mae':
        keys = ('ln', 'bias', 'pos_embed', 'mask_token', 'cls_token')
        wrapper = dict(
            optimizer=dict(type='AdamW', **settings),
            paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.0) for key in keys}),
        )
    else:
        wrapper = Config.fromfile(ROOT / 'configs/_base_/pretrain_300e.py').optim_wrapper
        wrapper.pop('dtype'), wrapper.pop('loss_scale')
    return build_optim_wrapper(model, dict(wrapper, type='OptimWrapper')).optimizer


def loss_of(model: nn.Module, imgs: torch.Tensor) -> torch.Tensor:
    if isinstance(model, Reference):
        patches = imgs[0, 0].numel() // model.patch**2
        return model(imgs, torch.rand(len(imgs), patches, device=imgs.device)).loss
    return model.loss(imgs, None)['loss']


def flops_of(model: nn.Module, imgs: torch.Tensor) -> int:
    """Operations of a step, from those of one and of two images: what is once a batch counts so."""
    with torch.compiler.set_stance('force_eager'):
        one, two = (flops(functools.partial(loss_of, model, imgs[:n])).training for n in (1, 2))
    return round(one + (len(imgs) - 1) * (two - one))


def with_updates(
    built: dict[str, nn.Module],
    runs: dict[str, Callable[[], None]],
    make: Callable[[str, nn.Module], torch.optim.Optimizer] = optimizer_of,
) -> dict[str, Callable[[], None]]:
    """Every step with the update of an optimizer that is made for it."""

    def whole(run: Callable[[], None], update: Callable[[], object]) -> None:
        run()
        update()

    return {
        name: functools.partial(whole, run, make(name, built[name]).step)
        for name, run in runs.items()
    }


def parse_args() -> argparse.Namespace:
    archs = [arch for arch in ARCHS if config_of('mae', arch).is_file()]
    parser = argparse.ArgumentParser(description='Step time of MIRL against its peers.')
    parser.add_argument('--arch', default='s54', choices=archs)
    parser.add_argument('--batch', type=int, default=8)
    add_options(parser)
    parser.add_argument(
        '--against', nargs='*', default=list(PEERS), choices=[*PEERS, *VARIANTS], metavar='NAME'
    )
    parser.add_argument('--update', action='store_true', help='add whole steps')
    parser.add_argument('--profile', action='store_true', help='add where the time goes')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    use_threads(args)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = getattr(torch, args.dtype)
    built = models(args.arch, device, args.against)
    side = built['mirl'].backbone.img_size[0]
    imgs = torch.randn(args.batch, 3, side, side, device=device)
    runs = {name: functools.partial(step, model, imgs, dtype) for name, model in built.items()}
    flops = {name: flops_of(model, imgs) for name, model in built.items()}
    spent = alternate(runs, args.rounds, device)
    result = summarise(spent, 'mirl', device, args.clock, flops)
    result['peak_mb'] = {n: round(peak_bytes(run, device) / 1e6) for n, run in runs.items()}
    if args.profile:
        result['profile'] = {name: profiled(run, device) for name, run in runs.items()}
    show(result)
    if args.update:
        spent = alternate(with_updates(built, runs), args.rounds, device)
        result['with_update'] = summarise(spent, 'mirl', device, args.clock)
        show(result['with_update'])
    save(args, result)


if __name__ == '__main__':
    main()
