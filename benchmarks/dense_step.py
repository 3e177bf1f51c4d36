"""Step time of the encoder on large images against its peers, alternately in one process.

    python -m benchmarks.dense_step --arch b12 --size 512 --out benchmarks/results/NAME.json

A step is forward and backward with a gradient of ones at the last map. Peers: mmpretrain's ViT with
global attention, and windows that every block cuts for itself (partitioned.py). ``--depth`` takes
the first blocks of the arch alone. ``--whole`` times training steps of Mask R-CNN or UperNet from
their configs instead, and the backbone's share of them. With other work on the machine,
``--threads 1 --clock cpu``.
"""

import argparse
import functools
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from benchmarks.partitioned import PartitionedViT
from benchmarks.timing import (
    add_options,
    alternate,
    peak_bytes,
    profiled,
    save,
    show,
    spread,
    summarise,
    use_threads,
)
from mirl_mm.models import ARCHS, MIRLDenseViT

ROOT = Path(__file__).parents[1]
WINDOW = 14
WHOLE = {  # config and the package that it needs
    'mask-rcnn': ('configs/mask-rcnn/vit-{}_lsj-100e_coco.py', 'mmdet'),
    'upernet': ('configs/upernet/vit-{}_160k_ade20k-512.py', 'mmseg'),
}
TEST = 'configs/{}/vit-test_20it_scenes.py'  # of either


def encoders(
    arch: str, depth: int | None, checkpointed: bool, init: bool = True
) -> dict[str, nn.Module]:
    """Ours and its peers by name, all with the same weights; of the first blocks, if so asked.

    Raises:
        ValueError: the depth is not within the arch, or has no global block.
    """
    settings = {key: value for key, value in ARCHS[arch].items() if key != 'num_segments'}
    with torch.device('meta'):
        global_indices = MIRLDenseViT(arch, window_size=WINDOW).global_indices
    depth = depth or settings['num_layers']
    if not global_indices[0] < depth <= settings['num_layers']:
        raise ValueError(
            f'--depth of {arch} is from {global_indices[0] + 1} (the first global block) to '
            f'{settings["num_layers"]}, got {depth}'
        )
    settings['num_layers'] = depth
    windows = dict(window_size=WINDOW, global_indices=[i for i in global_indices if i < depth])
    ours = MIRLDenseViT(settings, **windows)
    if init:
        ours.init_weights()
    stock = VisionTransformer(settings, img_size=224, out_type='featmap')
    stock.load_state_dict(ours.state_dict())
    built = {'windows': ours, 'partition in every block': PartitionedViT(ours), 'global': stock}
    if checkpointed:
        built['windows, checkpointed'] = MIRLDenseViT(settings, with_cp=True, **windows)
        built['windows, checkpointed'].load_state_dict(ours.state_dict())
    return built


def step(model: nn.Module, imgs: Tensor, dtype: torch.dtype) -> None:
    """Forward and backward of an encoder."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(imgs.device.type, dtype, enabled=dtype != torch.float32):
        maps = model(imgs)
    torch.autograd.backward(maps, [torch.ones_like(each) for each in maps])


def whole(
    name: str, arch: str, size: int, batch: int, device: str = 'cpu'
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A detector or segmentor, and what makes its loss on random images.

    Raises:
        ValueError: the package that it needs is not installed.
    """
    config, package = WHOLE[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'--whole {name} needs {package}: {error}; leave {name} out') from error
    cfg = Config.fromfile(ROOT / (TEST.format(name) if arch == 'test' else config.format(arch)))
    cfg.model.backbone.init_cfg = None
    head = cfg.model.decode_head if name == 'upernet' else cfg.model.roi_head.bbox_head
    with DefaultScope.overwrite_default_scope(package):
        model = MODELS.build(cfg.model).to(device).train()
    imgs = torch.randn(batch, 3, size, size, device=device)
    classes = head.num_classes
    samples = [sample_of(name, size, classes, seed).to(device) for seed in range(batch)]
    return model, lambda: total(model.loss(imgs, samples))


def sample_of(name: str, size: int, num_classes: int, seed: int):
    """Ground truth of a random image: ten objects, or a class for every pixel."""
    generator = torch.Generator().manual_seed(seed)
    if name == 'upernet':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        classes = torch.randint(num_classes, (1, size, size), generator=generator)
        return SegDataSample(gt_sem_seg=PixelData(data=classes))
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    corners = torch.rand(10, 2, generator=generator) * 0.7 * size
    sides = (0.05 + 0.25 * torch.rand(10, 2, generator=generator)) * size
    boxes = torch.cat([corners, corners + sides], dim=1)
    masks = np.zeros((10, size, size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=boxes,
            labels=torch.randint(num_classes, (10,), generator=generator),
            masks=BitmapMasks(masks, size, size),
        )
    )
    shape = (size, size)
    sample.set_metainfo(dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape))
    return sample


def total(losses: dict) -> Tensor:
    """The sum of everything that is called a loss."""
    values = [v for key, v in losses.items() if 'loss' in key]
    return sum(v.mean() for each in values for v in (each if isinstance(each, list) else [each]))


def whole_steps(args: argparse.Namespace) -> dict:
    """Training steps of whole models and, beside each, of the backbone alone."""
    runs: dict[str, Callable[[], None]] = {}
    for name in args.whole:
        model, loss = whole(name, args.arch, args.size, args.batch)
        imgs = torch.randn(args.batch, 3, args.size, args.size)

        def run(model=model, loss=loss) -> None:
            model.zero_grad(set_to_none=True)
            loss().backward()

        runs[name] = run
        runs[f'{name}, backbone'] = functools.partial(step, model.backbone, imgs, torch.float32)
    spent = alternate(runs, args.rounds)
    spent.pop('matrix product')
    seconds = {n: [round(getattr(s, args.clock), 4) for s in each] for n, each in spent.items()}
    shares = {
        name: spread(
            [b / a for a, b in zip(seconds[name], seconds[f'{name}, backbone'], strict=True)]
        )
        for name in args.whole
    }
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, share in shares.items():
        print(f'{name}: {medians[name]:.2f} s, of which the backbone {share["median"]:.0%}')
    return dict(clock=args.clock, seconds=seconds, medians=medians, backbone_share=shares)


def encoder_steps(args: argparse.Namespace) -> dict:
    """Steps of the encoder and its peers."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    built = encoders(args.arch, args.depth, checkpointed=True)
    imgs = torch.randn(args.batch, 3, args.size, args.size, device=device)
    dtype = getattr(torch, args.dtype)
    for model in built.values():
        model.to(device).train()
    runs = {name: functools.partial(step, model, imgs, dtype) for name, model in built.items()}
    result = summarise(alternate(runs, args.rounds, device), 'windows', device, args.clock)
    result['peak_mb'] = {n: round(peak_bytes(run, device) / 1e6) for n, run in runs.items()}
    if args.profile:
        result['profile'] = {name: profiled(run, device) for name, run in runs.items()}
    show(result)
    print('peak of tensors, MB:', result['peak_mb'])
    return result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Step time of the encoder on large images.')
    parser.add_argument('--arch', default='b12', choices=list(ARCHS))
    parser.add_argument('--depth', type=int, help='the first blocks alone; all without it')
    parser.add_argument('--size', type=int, default=512, help='pixels a side')
    parser.add_argument('--batch', type=int, default=1)
    add_options(parser)
    parser.add_argument('--whole', nargs='*', default=[], choices=list(WHOLE), metavar='NAME')
    parser.add_argument('--profile', action='store_true', help="add where an encoder's time goes")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    use_threads(args)
    try:
        result = whole_steps(args) if args.whole else encoder_steps(args)
    except ValueError as error:
        sys.exit(f'error: {error}')
    save(args, result)


if __name__ == '__main__':
    main()
