"""A linear classifier on frozen patch features, as mIoU behind every block: what is where.

Ridge regression on the classes' shares of each patch, from running sums: no feature is kept. Every
class weighs as much as any other, as in the mean (a third of CamVid's test scenes, one epoch of
MIRL, block 4: 24.7 % so, 20.8 by the root of that weight, 18.6 without; a logistic classifier
20.5). Scores are upsampled to the picture, and the largest is taken.

Shapes: H, W pixels, h, w patches, D width, C classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from PIL import Image
from torch import Tensor

from benchmarks.images import normalised
from mirl_mm.measure.features import block_tokens
from mirl_mm.measure.linear import HELD_OUT, PENALTIES

IGNORED = 255
EXTENT = (176, 240)  # pixels that scenes are brought to: 360 x 480 are 2.0 times as large


class Scene(NamedTuple):
    """A picture and its classes."""

    image: Tensor  # [1, 3, H, W] uint8
    classes: Tensor  # [H, W] long, 255 where there is none


def scenes(folder: Path, split: str, extent: tuple[int, int] = EXTENT) -> Iterator[Scene]:
    """``folder/images/<split>/*.jpg`` with ``folder/annotations/<split>/*.png``, in order of name.

    Raises:
        ValueError: there are none.
    """
    files = sorted((folder / 'images' / split).glob('*.jpg'))
    if not files:
        raise ValueError(f'no scenes at {folder}/images/{split}/*.jpg')
    size = extent[::-1]
    for file in files:
        with Image.open(file) as image:
            pixels = np.array(image.convert('RGB').resize(size, Image.Resampling.BICUBIC))
        with Image.open(folder / 'annotations' / split / f'{file.stem}.png') as mask:
            classes = np.array(mask.resize(size, Image.Resampling.NEAREST))
        yield Scene(
            torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.from_numpy(classes).long()
        )


class Sums:
    """What ridge regression needs of the patches seen so far, for every block."""

    def __init__(self, blocks: int, width: int, classes: int) -> None:
        self.gram = torch.zeros(blocks, 1 + width, 1 + width, dtype=torch.float64)
        self.moment = torch.zeros(blocks, 1 + width, classes, dtype=torch.float64)
        self.energy = torch.zeros((), dtype=torch.float64)  # of the targets

    def add(self, block: int, features: Tensor, shares: Tensor, weights: Tensor) -> None:
        """Features [n, 1+D] with a constant first, shares [n, C] and weights [n], of one block."""
        weighted = (features * weights[:, None]).T
        self.gram[block] += weighted @ features
        self.moment[block] += weighted @ shares

    def __iadd__(self, other: 'Sums') -> 'Sums':
        self.gram += other.gram
        self.moment += other.moment
        self.energy += other.energy
        return self

    def weights(self, penalty: float) -> Tensor:
        """[blocks, 1+D, C]; the penalty is relative to each feature's variance."""
        count = self.gram[:, 0, 0]
        mean = self.gram[:, 0] / count[:, None]
        variance = self.gram.diagonal(dim1=1, dim2=2) / count[:, None] - mean**2
        ridge = penalty * count[:, None] * variance.clamp(min=1e-6)
        ridge[:, 0] = 0
        return torch.linalg.solve(self.gram + torch.diag_embed(ridge), self.moment)

    def errors(self, weights: Tensor) -> Tensor:
        """Squared errors [blocks] that weights make on the patches seen."""
        fitted = torch.einsum('kdc,kde,kec->k', weights, self.gram, weights)
        return fitted - 2 * (weights * self.moment).sum(dim=(1, 2)) + self.energy


@torch.no_grad()
def segment_curve(
    vit: VisionTransformer,
    folder: Path,
    classes: int,
    extent: tuple[int, int] = EXTENT,
    blocks: Sequence[int] | None = None,
) -> list[float]:
    """mIoU in percent behind blocks, on ``folder``'s scenes: training -> test.

    Args:
        vit: in eval mode, on the CPU; any extent that its patches divide.
        folder: as :func:`scenes` reads it.
        classes: C.
        extent: (H, W) that scenes are brought to.
        blocks: 0-based, ascending; None takes all.

    Raises:
        ValueError: there are no scenes.
    """
    blocks = range(vit.num_layers) if blocks is None else blocks
    fitting, choosing = (Sums(len(blocks), vit.embed_dims, classes) for _ in range(2))
    patch, _ = vit.patch_embed.projection.stride
    training = list(scenes(folder, 'training', extent))
    targets = [shares_of(scene.classes, classes, patch) for scene in training]
    common = torch.stack([shares.mean(dim=0) for shares, _ in targets]).mean(dim=0).clamp(min=1e-9)
    for i, (scene, (shares, labelled)) in enumerate(zip(training, targets, strict=True)):
        sums = choosing if i % HELD_OUT == HELD_OUT - 1 else fitting  # of the penalty
        shares = shares[labelled]
        weights = (shares / common).sum(dim=1)
        sums.energy += (weights * (shares**2).sum(dim=1)).sum()
        for block, features in enumerate(patch_features(vit, scene.image, blocks)):
            sums.add(block, features[labelled], shares, weights)
    tries = [fitting.weights(penalty) for penalty in PENALTIES]
    best = torch.stack([choosing.errors(weights) for weights in tries]).argmin(dim=0)  # [blocks]
    fitting += choosing
    whole = torch.stack([fitting.weights(penalty) for penalty in PENALTIES])
    weights = whole[best, torch.arange(len(blocks))]  # [blocks, 1+D, C]
    counts = torch.zeros(len(blocks), classes, classes, dtype=torch.long)
    for scene in scenes(folder, 'test', extent):
        for block, features in enumerate(patch_features(vit, scene.image, blocks)):
            found = painted(features @ weights[block], scene.classes.shape, patch)
            counts[block] += confusion(scene.classes, found, classes)
    return [round(miou(each), 2) for each in counts]


def patch_features(
    vit: VisionTransformer, image: Tensor, blocks: Sequence[int]
) -> Iterator[Tensor]:
    """Behind each of the blocks, [h*w, 1+D] in float64 with a constant 1 first."""
    for tokens in block_tokens(vit, normalised(image), blocks):
        yield F.pad(tokens[0, vit.num_extra_tokens :].double(), (1, 0), value=1.0)


def shares_of(classes: Tensor, count: int, patch: int) -> tuple[Tensor, Tensor]:
    """Shares of the classes [h*w, C] in each patch, and whether it has any labelled pixel [h*w]."""
    planes = F.one_hot(classes.where(classes != IGNORED, torch.tensor(count)), count + 1)
    shares = F.avg_pool2d(planes.permute(2, 0, 1).double(), patch).flatten(1).T[:, :count]
    known = shares.sum(dim=1)
    return shares / known.clamp(min=1e-9)[:, None], known > 0


def painted(scores: Tensor, extent: Sequence[int], patch: int) -> Tensor:
    """Classes [H, W] of scores [h*w, C], upsampled bilinearly."""
    h, w = (side // patch for side in extent)
    planes = scores.T.reshape(1, -1, h, w).float()
    return F.interpolate(planes, tuple(extent), mode='bilinear')[0].argmax(dim=0)


def confusion(wanted: Tensor, found: Tensor, classes: int) -> Tensor:
    """Pixels [C wanted, C found] that have a label."""
    known = wanted != IGNORED
    pairs = classes * wanted[known] + found[known]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def miou(confusion: Tensor) -> float:
    """Mean over the classes that occur, in percent."""
    right = confusion.diagonal()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - right
    occurs = confusion.sum(dim=1) > 0
    return 100 * (right[occurs] / either[occurs]).mean().item()
