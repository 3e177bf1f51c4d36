"""Features behind blocks as maps to look at, each on a scale that is the same in every run.

Shapes: B images, M maps of each (heads, or one), K blocks, E extra tokens, L = h*w patches.
"""

from collections.abc import Sequence
from math import log2

import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from torch import Tensor

from mirl_mm.measure.features import attention_rows, block_tokens, patch_side

WHAT = ('pca', 'attention', 'similarity')
DEVIATIONS = 2  # of a component, to either side of grey
TIMES = 4  # as much attention as a token has on average, or a quarter: the ends of the colours
DECADES = 3  # of 1 - cosine, from 1 down: deep patches of a masked pre-training are all alike
MARK = torch.tensor([255, 60, 60], dtype=torch.uint8).view(3, 1, 1)  # around the chosen patch
Patch = tuple[int, int] | None  # (row, column) from 0; None is the cls token


@torch.no_grad()
def feature_maps(
    vit: VisionTransformer, imgs: Tensor, what: str, blocks: Sequence[int], at: Patch, heads=False
) -> Tensor:
    """Maps [K, B*M, 3, H, W], uint8 on the CPU, of normalised [B, C, H, W]; blocks are 0-based.

    ``what`` is one of :data:`WHAT`. The patch ``at`` attends, or is what the others are like,
    and is framed. M is the number of heads if ``heads``, in ``attention`` alone.
    """
    grid, extra = grid_of(vit, imgs), vit.num_extra_tokens
    token = extra + at[0] * grid[1] + at[1] if at else 0
    if what == 'attention':
        rows = attention_rows(vit, imgs, blocks, token).transpose(0, 1)  # [K, B, M, E+L]
        times = (rows if heads else rows.mean(dim=2))[..., extra:] * rows.shape[-1]
        levels = 0.5 + times.log2() / (2 * log2(TIMES))
    else:
        tokens = torch.stack([*block_tokens(vit, imgs, blocks)])  # [K, B, E+L, D]
        patches = tokens[..., extra:, :]
        near = F.cosine_similarity(patches, tokens[..., token, None, :], dim=-1)
        levels = -(1 - near).clamp(min=1e-6).log10() / DECADES
    pca = what == 'pca'
    colours = component_colours(patches, guides_of(imgs, grid)) if pca else in_colours(levels)
    maps = (255 * colours).round().byte().reshape(-1, *grid, 3).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, imgs.shape[-2:])  # nearest
    return (maps if pca else framed(maps, grid, at)).unflatten(0, (len(blocks), -1))


def segment_ends(vit: VisionTransformer) -> list[int]:
    """0-based blocks: the last of each segment; without segments, of each quarter of the depth."""
    depth, parts = vit.num_layers, getattr(vit, 'num_segments', 4)
    return sorted({max(round(depth * i / parts), 1) - 1 for i in range(1, parts + 1)})


def grid_of(vit: VisionTransformer, imgs: Tensor) -> tuple[int, int]:
    """(h, w) patches of images."""
    return imgs.shape[-2] // patch_side(vit), imgs.shape[-1] // patch_side(vit)


def guides_of(imgs: Tensor, grid: tuple[int, int]) -> Tensor:
    """Brightness, row and column of patches, [B, L, 3], which give components their signs."""
    bright = F.adaptive_avg_pool2d(imgs.mean(dim=1), grid)  # [B, h, w]
    rows, columns = torch.ones_like(bright).cumsum(1), torch.ones_like(bright).cumsum(2)
    return torch.stack([bright, rows, columns], dim=-1).flatten(1, 2)


def component_colours(tokens: Tensor, guides: Tensor) -> Tensor:
    """The first three principal components of tokens [..., L, D] as colours [..., L, 3], 0 to 1.

    The mean of a component is 0.5; two deviations below and above it are 0 and 1. Of its two signs
    it has the one that goes with the guide, of [..., L, R], that it goes with most, up or down.
    """
    tokens, guides = tokens.cpu().double(), guides.cpu().double()
    centred = tokens - tokens.mean(dim=-2, keepdim=True)
    _, vectors = torch.linalg.eigh(centred.mT @ centred)  # the largest last
    scores = standard(centred @ vectors[..., -3:].flip(-1))
    along = standard(guides).mT @ scores  # [..., R, 3]
    strongest = along.gather(-2, along.abs().argmax(dim=-2, keepdim=True))
    signed = scores * torch.where(strongest < 0, -1.0, 1.0)
    return (0.5 + signed / (2 * DEVIATIONS)).clamp(0, 1)


def standard(values: Tensor) -> Tensor:
    """Each column of [..., L, N] with mean 0 and deviation 1; one of equal numbers becomes 0."""
    values = values - values.mean(dim=-2, keepdim=True)
    return values / values.std(dim=-2, correction=0, keepdim=True).clamp(min=1e-4)


def in_colours(values: Tensor) -> Tensor:
    """Numbers [...] from 0 (dark) to 1 (bright) in matplotlib's viridis, [..., 3] of 0 to 1."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps['viridis'](values.cpu().numpy())[..., :3])


def framed(pixels: Tensor, grid: tuple[int, int], patch: Patch) -> Tensor:
    """Pixels [B, 3, H, W], uint8, on the CPU, with a frame around the patch; cls has none."""
    if patch is None:
        return pixels
    inside, line = torch.zeros(1, 1, *grid), max(pixels.shape[-2] // grid[0] // 4, 1)
    inside[0, 0, patch[0], patch[1]] = 1
    inside = F.interpolate(inside, pixels.shape[-2:])
    grown = F.max_pool2d(inside, 2 * line + 1, stride=1, padding=line)
    return torch.where(grown > inside, MARK, pixels)
