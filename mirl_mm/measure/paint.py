"""How well masked patches can be painted from behind every block of a frozen encoder.

Behind each block a decoder of one block, 64 wide, learns from the same passes of the encoder (after
MIM-Refiner, https://arxiv.org/abs/2402.10093). All begin equal and nothing joins them, so what is
found behind a block does not depend on the others.

Shapes: N images, B batch, K blocks, L patches, V visible ones, D width.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import Subset

from mirl_mm.errors import UserError
from mirl_mm.models.head import MIRLHead
from mirl_mm.models.masking import fixed_noise, gather_tokens, masked_ids, named_noise
from mirl_mm.models.neck import MIRLNeck
from mirl_mm.models.vit import MaskedFeatures

from .cached import cached_pass, encoder_key, images_digest
from .curves import Curve, mean, parts_of
from .depth import Probing
from .features import Loading, loaded, masked_tokens, patch_side, progress

VERSION = 1  # a change of what is found raises it, and older caches are left
RATE, WARM_UP = 4e-3, 0.05  # the highest rate (8e-3 is as good), and the share of steps up to it
DECODER = dict(num_segments=1, decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=4)


def paint_curves(
    vit: VisionTransformer,
    train: CustomDataset,
    val: CustomDataset,
    how: Probing,
    folder: Path,
    weights: str,
    title: str,
    mask_ratio: float,
    steps: int = 2000,
) -> list[Curve]:
    """The masked error behind each block on ``val``, whose masks are the same for every encoder.

    It is the squared error on patches normed each by itself: their mean colour has about 1. What is
    learnt stays in the folder; UserError: no step, or a mask_ratio that is none.
    """
    if steps < 1:
        raise UserError(f'painting takes 1 step or more, got {steps}')
    device, size, decoders = get_device(), how.loading.batch_size, _decoders(vit, len(how.blocks))
    decoders.register_buffer('errors', torch.zeros(len(val), len(how.blocks)))
    learnt = [p for p in decoders.to(device).parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.95), weight_decay=0.05)
    masked = partial(masked_tokens, vit, blocks=how.blocks, mask_ratio=mask_ratio)
    errors_of, side = partial(_errors, decoders, masked, how.loading), patch_side(vit)

    def compute(done: int) -> Iterator[int]:
        vit.to(device)
        images = partial(loaded, preprocessor=how.preprocessor.to(device), loading=how.loading)
        order = [*islice(InfiniteSampler(train, seed=0), done * size, steps * size)]
        found = images(Subset(train, order)) if order else ()
        found = progress(found, steps * size, f'{title}, painting', done * size)
        for step, (imgs, _) in enumerate(found, done):
            rise, fall = (step + 1) / (WARM_UP * steps), (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]['lr'] = RATE * min(rise, fall)
            optimizer.zero_grad()
            names = [f'{step}, {i}' for i in range(size)]
            for error in errors_of(imgs, named_noise(names, imgs, side)):
                error.mean().backward()
            optimizer.step()
            yield 1
        done = max(done - steps, 0)
        found = images(Subset(val, range(done, len(val))))
        for imgs, samples in progress(found, len(val), f'{title}, painted', done):
            with torch.no_grad():
                errors = torch.stack([*errors_of(imgs, fixed_noise(imgs, samples, side))], dim=1)
            decoders.errors[done : done + len(imgs)] = errors
            done += len(imgs)
            yield len(imgs)
        vit.cpu()

    key = dict(paint=VERSION, blocks=list(how.blocks), pipeline=str(how.pipeline), steps=steps)
    digests = [images_digest(train), images_digest(val)]
    key |= dict(images=digests, mask_ratio=mask_ratio, batch=size)
    key |= encoder_key(vit, weights, how.preprocessor, how.loading.amp)
    parts = dict(decoders=decoders, optimizer=optimizer)
    cached_pass(folder, key, parts, steps + len(val), compute)
    return [Curve.of('paint', parts_of(decoders.errors.cpu()), mean, less=True)]


def _decoders(vit: VisionTransformer, number: int) -> nn.ModuleList:
    """Equal ones. Each is a neck, so that its activations can go before the next one paints."""
    sizes = dict(patch_size=patch_side(vit), in_channels=vit.patch_embed.projection.in_channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        neck = MIRLNeck(vit.embed_dims, context=False, **DECODER, **sizes)
        neck.init_weights()
    return nn.ModuleList(copy.deepcopy(neck) for _ in range(number))


def _errors(
    decoders: nn.ModuleList, masked: Callable, loading: Loading, imgs: Tensor, noise: Tensor
) -> Iterator[Tensor]:
    """K x [B], one after the other: going backward from one frees what its decoder has kept."""
    head = MIRLHead(patch_size=decoders[0].patch_size, pairing='none')
    grid = tuple(n // head.patch_size for n in imgs.shape[-2:])
    with torch.no_grad(), loading.autocast(imgs):
        target = head.target(imgs).patches
        taps, *masks = masked(imgs=imgs, noise=noise)
    target = gather_tokens(target, masked_ids(masks[0], taps[0].shape[1] - 1))  # [B, L-V, p*p*C]
    for decoder, tap in zip(decoders, taps, strict=True):
        with loading.autocast(imgs):  # of the stem, no more than the shape is read
            preds = decoder.paint_masked(MaskedFeatures(tap, (tap,), *masks, grid))
        yield head.compare(preds, target, torch.ones_like(target[..., 0]))[1][:, 0]
