"""Step time of MIRL against its peers, alternately in one process.

    python -m benchmarks.pretrain_step --arch s54 --batch 8 --out benchmarks/results/NAME.json

A step is forward and backward on random images, without the optimizer. Peers: mmpretrain's MAE on
the same encoder with 8 decoder blocks of the neck's width, and the plain transcription of the
equations in tests/reference.py. Every round times each model once, so a noisy machine disturbs all
of them; the ratios are taken round by round.
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.reference import Reference

ROOT = Path(__file__).parents[1]


def models(arch: str, device: str) -> dict[str, nn.Module]:
    """MIRL and its peers by name."""
    init_default_scope('mmpretrain')
    built = {}
    for name in ('mirl', 'mae'):
        epochs = '2e' if arch == 'test' else '300e'
        cfg = Config.fromfile(ROOT / f'configs/{name}/vit-{arch}_{epochs}.py')
        built[name] = MODELS.build(cfg.model)
        built[name].init_weights()
    backbone, neck = built['mirl'].backbone, built['mirl'].neck
    decoder = neck.decoders[0]
    built['reference'] = Reference(
        img_size=backbone.img_size,
        patch=backbone.patch_size,
        width=backbone.embed_dims,
        depth=backbone.num_layers,
        heads=backbone.arch_settings['num_heads'],
        decoder_width=decoder.embed.out_features,
        decoder_depth=len(decoder.blocks),
        decoder_heads=decoder.blocks[0].attn.num_heads,
        segments=neck.num_segments,
    )
    return {name: model.to(device).train() for name, model in built.items()}


def loss_of(model: nn.Module, imgs: torch.Tensor) -> torch.Tensor:
    if isinstance(model, Reference):
        patches = imgs[0, 0].numel() // model.patch**2
        return model(imgs, torch.rand(len(imgs), patches, device=imgs.device)).loss
    return model.loss(imgs, None)['loss']


def step(model: nn.Module, imgs: torch.Tensor, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    synchronise(imgs)
    started = time.perf_counter()
    with torch.autocast(imgs.device.type, dtype, enabled=dtype != torch.float32):
        loss = loss_of(model, imgs)
    loss.backward()
    synchronise(imgs)
    return time.perf_counter() - started


def synchronise(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description='Step time of MIRL against its peers.')
    parser.add_argument('--arch', default='s54', choices=['test', 's54', 'b12', 'b48'])
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    built = models(args.arch, device)
    size = built['mirl'].backbone.img_size[0]
    imgs = torch.randn(args.batch, 3, size, size, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for r in range(args.rounds + 1):
        for name, model in built.items():
            spent = step(model, imgs, getattr(torch, args.dtype))
            if r:  # the first round warms up
                seconds[name].append(round(spent, 4))
            print(f'round {r} {name:<10} {spent:.3f} s', flush=True)
    ratios = {
        peer: [round(a / b, 4) for a, b in zip(seconds['mirl'], seconds[peer], strict=True)]
        for peer in seconds
        if peer != 'mirl'
    }
    for peer, values in ratios.items():
        middle = statistics.median(values)
        print(f'mirl / {peer}: median {middle:.3f}, {min(values):.3f} to {max(values):.3f}')
    if args.out:
        result = dict(
            date=str(date.today()),
            hardware=torch.cuda.get_device_name()
            if device == 'cuda'
            else f'{platform.machine()} CPU',
            threads=torch.get_num_threads(),
            versions={name: version(name) for name in ('torch', 'numpy')},
            config={key: value for key, value in vars(args).items() if key != 'out'},
            seconds=seconds,
            medians={name: statistics.median(values) for name, values in seconds.items()},
            ratios=ratios,
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
