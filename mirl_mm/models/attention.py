"""Attention on projected tokens: among all of them, or inside the windows of a large image's map.

Shapes: B batch (or windows), Q queries, M keys, D width of all heads together. Of windows: h x w
patches, L = h*w, E extra tokens (1 with cls, else 0), W tokens in window layout: N windows of n
patches and E extra tokens each, summed over the window shapes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def attend(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0, fp32: bool = False
) -> Tensor:
    """q [B, Q, D], k and v [B, M, D] -> [B, Q, D], every head within its own D/heads features.

    Args:
        dropout: share of the attention weights that is zeroed.
        fp32: compute in float32 what comes in half precision. Deep ViTs overflow float16 here
            first (https://github.com/facebookresearch/deit/issues/109).
    """
    if fp32 and q.dtype in HALVES:
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), num_heads, dropout).to(q.dtype)
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class Windows:
    """An h x w map cut into square windows, and attention inside them.

    Nothing is padded: windows at the right and bottom edge are smaller where the map is not a
    multiple of the size. So no mask is needed, which would rule out kernels, and no work is spent
    on padding; there are at most four window shapes, and each shape is one call.

    Each window has its own copy of the extra tokens (cls), so that a window of the pre-training
    grid sees just what the encoder was trained on, and nothing crosses a window's border. Leaving
    the windows averages the copies, each weighted by its window's patches.

    Args:
        grid: (h, w) patches.
        size: patches per side, less than the longer side of the map.
        extra: E.
    """

    def __init__(self, grid: tuple[int, int], size: int, extra: int) -> None:
        self.grid, self.extra = grid, extra
        # Along each side: {length of the part with full windows: size, rest: rest}.
        self.rows, self.cols = (
            {n: min(n, size) for n in (length // size * size, length % size) if n}
            for length in grid
        )
        self.shapes = [  # (N, n) of each window shape, in the order of the layout
            (height // a * (width // b), a * b)
            for height, a in self.rows.items()
            for width, b in self.cols.items()
        ]
        self.lengths = [count * (extra + patches) for count, patches in self.shapes]

    def enter(self, x: Tensor) -> Tensor:
        """[B, E+L, D], row by row -> [B, W, D], window by window."""
        extra, patches = x.tensor_split([self.extra], dim=1)
        bands, parts = patches.unflatten(1, self.grid).split([*self.rows], dim=1), []
        for band, a in zip(bands, self.rows.values(), strict=True):
            for part, b in zip(band.split([*self.cols], dim=2), self.cols.values(), strict=True):
                part = part.unflatten(2, (-1, b)).unflatten(1, (-1, a)).transpose(2, 3)
                part = part.flatten(3, 4).flatten(1, 2)  # [B, N, n, D]
                copies = extra[:, None].expand(-1, part.shape[1], -1, -1)
                parts.append(torch.cat([copies, part], dim=2).flatten(1, 2))
        return torch.cat(parts, dim=1)

    def leave(self, x: Tensor) -> Tensor:
        """[B, W, D] -> [B, E+L, D]: the inverse of :meth:`enter`."""
        parts = zip(x.split(self.lengths, dim=1), self.shapes, strict=True)
        extra, bands = 0, []
        for height, a in self.rows.items():
            band = []
            for b in self.cols.values():
                part, (count, patches) = next(parts)
                copies, part = part.unflatten(1, (count, -1)).tensor_split([self.extra], dim=2)
                extra = extra + copies.sum(1) * (patches / (self.grid[0] * self.grid[1]))
                part = part.unflatten(2, (a, b)).unflatten(1, (height // a, -1)).transpose(2, 3)
                band.append(part.flatten(3, 4).flatten(1, 2))  # [B, rows, cols, D]
            bands.append(torch.cat(band, dim=2))
        return torch.cat([extra, torch.cat(bands, dim=1).flatten(1, 2)], dim=1)

    def attend(self, qkv: Tensor, heads: int, dropout: float, fp32: bool = False) -> Tensor:
        """[B, W, 3*D] -> [B, W, D], each token from the tokens of its own window."""
        outs = []
        for part, (count, _) in zip(qkv.split(self.lengths, dim=1), self.shapes, strict=True):
            part = part.unflatten(1, (count, -1)).flatten(0, 1)  # [B*N, E+n, 3*D]
            out = attend(*part.chunk(3, dim=-1), heads, dropout, fp32)
            outs.append(out.unflatten(0, (-1, count)).flatten(1, 2))
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
