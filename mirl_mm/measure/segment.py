"""A linear classifier on frozen patch features, as mIoU behind every block: what is where.

Ridge regression on the classes' shares of each patch, from running sums: no feature is kept. Every
class weighs as much as any other, as in the mean (a third of CamVid's test scenes, one epoch of
MIRL, block 4: 24.7 % so, 20.8 by the root of that weight, 18.6 without; a logistic classifier
20.5). Scores are upsampled to the picture, and the largest is taken.

Sums are in float64 on the encoder's device: what even a GPU that is slow at it does of that is more
than a CPU does, and no token is carried across. Both sums together take 16 x K x (1 + D)^2 bytes,
128 MB for 54 blocks of 384 and 454 MB for 48 of 768, and to solve them as much again. Scenes pass
one at a time, whatever their size.

Shapes: H, W pixels, h, w patches, D width, C classes, K blocks, F parts.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmpretrain.models import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from mirl_mm.datasets.decode import decode, named
from mirl_mm.errors import UserError

from .cached import cached_pass, digest_of, encoder_key
from .curves import PARTS, Curve
from .depth import Probing
from .features import block_tokens, exact_device, progress
from .linear import HELD_OUT, PENALTIES

IGNORED = 255
VERSION = 1  # of the sums: a change of what they hold raises it, and older ones are left


class Scene(NamedTuple):
    """The files of a picture and its mask."""

    picture: str
    mask: str
    extent: tuple[int, int]  # (H, W) in pixels that both are brought to, whole patches
    meaning: bytes  # 256, what each value of the mask stands for: a class, or IGNORED


class Scenes(NamedTuple):
    """What a classifier is fitted to, and what it is measured on."""

    train: Sequence[Scene]
    val: Sequence[Scene]
    classes: Sequence[str]  # names
    common: Tensor  # [C] in float64, how much of a training picture they are on average


@torch.no_grad()
def segment_curves(
    vit: VisionTransformer, scenes: Scenes, how: Probing, folder: Path, weights: str, title: str
) -> list[Curve]:
    """``miou`` in percent behind blocks; one stopped goes on from what the folder keeps.

    ``vit`` is in eval mode on the CPU, and back there at the end. ``weights`` tells the encoder's
    apart, such as a digest; the title is for the progress.
    """
    device, exact = get_device(), exact_device()
    number, patch = len(scenes.classes), vit.patch_embed.projection.stride
    norm, common = how.preprocessor.to(device), scenes.common.to(exact).clamp(min=1e-9)

    def features(image: Tensor) -> Iterator[Tensor]:
        """Behind each block [h*w, 1+D] in float64, with a constant 1 first."""
        imgs = norm(dict(inputs=image))['inputs']
        with how.loading.autocast(imgs):
            every = [*block_tokens(vit, imgs, how.blocks)]
        for tokens in every:
            tokens = tokens[0, vit.num_extra_tokens :].to(exact, torch.float64)
            yield F.pad(tokens, (1, 0), value=1.0)

    def seen(part: str, done: int) -> Iterator[tuple[int, Tensor, Iterator[Tensor]]]:
        """Of each scene its place, its classes [H, W], and features."""
        every = getattr(scenes, part)
        loader = how.loading.loader(every[done:], batch_size=None, collate_fn=load)
        shown = progress(loader, len(every), f'{title} scenes, {part}', done)
        for i, (image, wanted) in enumerate(shown, done):
            yield i, wanted[0].to(exact), features(image)

    def fit(done: int) -> Iterator[int]:
        for i, wanted, behind in seen('train', done):
            shares, labelled = shares_of(wanted, number, patch)
            shares, sums = shares[labelled], parts[i % HELD_OUT == HELD_OUT - 1]
            each = (shares / common).sum(dim=1)
            sums.energy += (each * (shares**2).sum(dim=1)).sum()
            for k, rows in enumerate(behind):
                sums.add(k, rows[labelled], shares, each)
            yield 1

    def test(done: int) -> Iterator[int]:
        for i, wanted, behind in seen('val', done):
            for k, rows in enumerate(behind):
                found = painted(rows @ classifiers[k], wanted.shape, patch)
                last.counts[i % len(last.counts), k] += confusion(wanted, found, number)
            yield 1

    key = encoder_key(vit, weights, norm, how.loading.amp) | _key(scenes, how.blocks)
    shape = (len(how.blocks), vit.embed_dims, number)
    parts, last = [Sums(*shape).to(exact) for _ in range(2)], nn.Module()
    counts = torch.zeros(min(PARTS, len(scenes.val)), shape[0], number, number, dtype=torch.long)
    last.register_buffer('counts', counts.to(exact))
    vit.to(device)
    both = dict(fitting=parts[0], choosing=parts[1])
    cached_pass(folder, key | dict(of='sums'), both, len(scenes.train), fit)
    classifiers = fitted(*parts)
    cached_pass(folder, key | dict(of='counts'), dict(last=last), len(scenes.val), test)
    vit.cpu()
    return [Curve.of('miou', last.counts.cpu(), miou)]


def load(scene: Scene) -> tuple[Tensor, Tensor]:
    """A picture [1, 3, H, W], BGR in uint8, and its classes [1, H, W]."""
    with named(scene.picture):
        pixels = Image.fromarray(decode(Path(scene.picture).read_bytes()))
        pixels = np.array(pixels.resize(scene.extent[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None], load_classes(scene)[None]


def load_classes(scene: Scene) -> Tensor:
    """[H, W] in int64, some of it IGNORED; UserError for a mask that is none."""
    with named(scene.mask), Image.open(scene.mask) as mask:
        if mask.mode not in ('1', 'L', 'P'):
            said = f'the mask {scene.mask} is an image of mode {mask.mode}'
            raise UserError(f'{said}; accepted are masks of one 8-bit channel of class indices')
        values = np.array(mask.resize(scene.extent[::-1], Image.Resampling.NEAREST), np.uint8)
    return torch.from_numpy(np.frombuffer(scene.meaning, np.uint8)[values]).long()


class Sums(nn.Module):
    """What ridge regression needs of the patches seen so far, for every block."""

    def __init__(self, blocks: int, width: int, classes: int) -> None:
        super().__init__()
        zeros = partial(torch.zeros, dtype=torch.float64)
        self.register_buffer('gram', zeros(blocks, 1 + width, 1 + width))
        self.register_buffer('moment', zeros(blocks, 1 + width, classes))
        self.register_buffer('energy', zeros(()))  # of the targets

    def add(self, block: int, features: Tensor, shares: Tensor, weights: Tensor) -> None:
        """Features [n, 1+D] with a constant first, shares [n, C] and weights [n], of one block."""
        weighted = (features * weights[:, None]).T
        self.gram[block] += weighted @ features
        self.moment[block] += weighted @ shares

    def __iadd__(self, other: 'Sums') -> 'Sums':
        for mine, its in zip(self.buffers(), other.buffers(), strict=True):
            mine += its
        return self

    def weights(self, penalty: float) -> Tensor:
        """[K, 1+D, C]; the penalty is relative to each feature's variance."""
        count = self.gram[:, 0, 0]
        mean = self.gram[:, 0] / count[:, None]
        variance = self.gram.diagonal(dim1=1, dim2=2) / count[:, None] - mean**2
        ridge = penalty * count[:, None] * variance.clamp(min=1e-6)
        ridge[:, 0] = 0
        return torch.linalg.solve(self.gram + torch.diag_embed(ridge), self.moment)

    def errors(self, weights: Tensor) -> Tensor:
        """Squared errors [K] that weights make on the patches seen."""
        fitted = torch.einsum('kdc,kde,kec->k', weights, self.gram, weights)
        return fitted - 2 * (weights * self.moment).sum(dim=(1, 2)) + self.energy


def fitted(fitting: Sums, choosing: Sums) -> Tensor:
    """[K, 1+D, C], of all patches, with the penalty that is best for those held out.

    Afterwards the first sums are those of all.
    """
    tries = [fitting.weights(penalty) for penalty in PENALTIES]
    best = torch.stack([choosing.errors(weights) for weights in tries]).argmin(dim=0)  # [K]
    fitting += choosing
    whole = torch.stack([fitting.weights(penalty) for penalty in PENALTIES])
    return whole[best, torch.arange(len(best), device=best.device)]


def shares_of(classes: Tensor, count: int, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Shares of the classes [h*w, C] in each patch, and whether it has any labelled pixel [h*w]."""
    h, w = (side // step for side, step in zip(classes.shape, patch, strict=True))
    places = torch.arange(h * w, device=classes.device).view(h, 1, w, 1) * (count + 1)
    places = places + classes.clamp(max=count).view(h, patch[0], w, patch[1])
    counts = torch.bincount(places.flatten(), minlength=h * w * (count + 1))
    shares = counts.view(h * w, count + 1)[:, :count].double()
    known = shares.sum(dim=1)
    return shares / known.clamp(min=1)[:, None], known > 0


def painted(scores: Tensor, extent: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Classes [H, W] of scores [h*w, C], upsampled bilinearly."""
    h, w = (side // step for side, step in zip(extent, patch, strict=True))
    planes = scores.float().view(1, h, w, -1).permute(0, 3, 1, 2)  # so it takes a fifth of the time
    return F.interpolate(planes, tuple(extent), mode='bilinear')[0].argmax(dim=0)


def confusion(wanted: Tensor, found: Tensor, classes: int) -> Tensor:
    """Pixels [C wanted, C found] that have a label."""
    known = wanted != IGNORED
    pairs = classes * wanted[known] + found[known]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def miou(counts: Tensor) -> Tensor:
    """Pixels [..., C wanted, C found] -> [...]: in percent, over the classes that occur."""
    counts = counts.double()
    right, wanted = counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1)
    either = (counts.sum(dim=-2) + wanted - right).clamp(min=1)
    return 100 * (right / either).sum(dim=-1) / (wanted > 0).sum(dim=-1)


def _key(scenes: Scenes, blocks: Sequence[int]) -> dict:
    """What the sums depend on beside the encoder."""
    every = [*scenes.train, *scenes.val]
    files = [Path(file).absolute() for scene in every for file in scene[:2]]
    images = digest_of(files, os.path.commonpath(file.parent for file in files))
    rest = sorted({(scene.extent, scene.meaning.hex()) for scene in every})
    rest += [len(scenes.train), len(scenes.classes)]
    return dict(version=VERSION, blocks=list(blocks), images=images, rest=rest)
