"""Pure functions on patch sequences: which patches stay, where they go back, how they look.

Shapes: B batch, L patches (h x w grid, row by row), K kept patches, D width, C image channels,
p patch side in pixels.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirl_mm.errors import UserError


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """K, the number of patches that stay visible; at least one stays and at least one is masked."""
    kept = int(num_patches * (1 - mask_ratio))
    if not 1 <= kept < num_patches:
        accepted = f'accepted is 0 < mask_ratio < 1 - 1/{num_patches}'
        wrong = f'{mask_ratio=} keeps {kept} of {num_patches} patches'
        raise UserError(f'{wrong}; it must keep at least 1 and mask at least 1, so {accepted}')
    return kept


def named_noise(names: Sequence[str], imgs: Tensor, patch_size: int) -> Tensor:
    """Noise [B, L] for [B, C, H, W], on its device; a row depends on its name and L alone."""
    num_patches = imgs[0, 0].numel() // patch_size**2
    sources = [torch.Generator().manual_seed(zlib.crc32(name.encode())) for name in names]
    return torch.stack([torch.rand(num_patches, generator=each) for each in sources]).to(imgs)


def fixed_noise(imgs: Tensor, data_samples: Sequence, patch_size: int) -> Tensor:
    """Noise [B, L] drawn from each image's file name (its place in the batch without one).

    So a held-out image has the same mask in every epoch, batch size and number of processes.
    """
    names = [Path(s.get('img_path') or str(i)).name for i, s in enumerate(data_samples)]
    return named_noise(names, imgs, patch_size)


def random_masking(noise: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the K patches with the smallest noise [B, L] in each row.

    Returns ids_keep [B, K] in ascending order of noise; ids_restore [B, L], where each patch sits
    in (kept patches, then masked ones); mask [B, L], 0 for kept and 1 for masked.
    """
    order = noise.argsort(dim=1, stable=True)
    ids_restore = order.argsort(dim=1)
    mask = (ids_restore >= kept).to(noise.dtype)
    return order[:, :kept], ids_restore, mask


def masked_ids(ids_restore: Tensor, kept: int) -> Tensor:
    """Where the masked patches sit: [B, L] -> [B, L-K]."""
    return ids_restore.argsort(dim=1)[:, kept:]


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Take tokens [B, N, D] at ids [B, M] -> [B, M, D]."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def patchify(imgs: Tensor, patch_size: int) -> Tensor:
    """Cut [B, C, H, W] into patches [B, L, p*p*C], channel fastest; H and W: multiples of p."""
    (b, c, height, width), p = imgs.shape, patch_size
    check_image_size((height, width), p)
    patches = imgs.reshape(b, c, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(b, -1, p * p * c)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Inverse of :func:`patchify`: [B, L, p*p*C] on an h x w grid -> [B, C, h*p, w*p]."""
    b, p, (h, w) = patches.shape[0], patch_size, grid
    pixels = patches.reshape(b, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(b, -1, h * p, w * p)


def check_image_size(size: tuple[int, int], patch_size: int) -> None:
    """Refuse sides (pixels) that are no positive multiples of the patch size."""
    if any(side < patch_size or side % patch_size for side in size):
        wrong = f'image size {size[0]}x{size[1]} (height x width) does not fit {patch_size=}'
        raise UserError(f'{wrong}: each side must be a multiple of it, and at least one patch')


@lru_cache(maxsize=32)
def sincos_positions(dim: int, grid: tuple[int, int], cls_token: bool = True) -> Tensor:
    """Fixed 2-D sine-cosine positions as in MAE: the first half of the width encodes the column.

    [1, (1+)L, D], zero for cls; computed in float64 and rounded once, as the official tables are
    (mmpretrain's are transposed, and of float32). The result is cached: do not write into it.
    """
    if dim % 4:
        raise UserError(f'sine-cosine positions need a width divisible by 4, got {dim}')
    omega = 10000.0 ** -(np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    rows, cols = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing='ij')
    halves = [np.outer(axis.reshape(-1), omega) for axis in (cols, rows)]
    table = np.concatenate([f(half) for half in halves for f in (np.sin, np.cos)], axis=1)
    if cls_token:
        table = np.concatenate([np.zeros((1, dim)), table])
    return torch.tensor(table[None], dtype=torch.float32, device='cpu')
