"""The encoder's block: mmpretrain's parameters and numbers, with a say in speed and memory.

Its attention is among all tokens, or inside the windows of a large image's map. Shapes: B batch (or
windows), Q queries, M keys, N tokens, D width of all heads together. Of windows: h x w patches,
L = h*w, E extra tokens (cls and registers), W tokens in window layout: N windows of n patches and
E extra tokens each, summed over the window shapes.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mirl_mm.errors import UserError

from .half import Layers


def attend(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0, fp32: bool = False
) -> Tensor:
    """q [B, Q, D], k and v [B, M, D] -> [B, Q, D], every head within its own D/heads features.

    ``fp32``: in float32 what comes in half precision, for deep ViTs overflow float16 here first
    (https://github.com/facebookresearch/deit/issues/109).
    """
    if fp32 and q.dtype in (torch.float16, torch.bfloat16):
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), num_heads, dropout).to(q.dtype)
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class Windows:
    """An h x w map cut into square windows (size: patches per side, < h or w); attention inside.

    Nothing is padded, so that no mask rules out kernels: windows at the right and bottom edge are
    smaller where the map is no multiple of the size. Each of the up to four shapes is one call.

    Each window has its own copy of the extra tokens (cls): a window of the pre-training grid sees
    just what the encoder was trained on, and nothing crosses a border. Leaving the windows averages
    the copies, each weighted by its window's patches.
    """

    def __init__(self, grid: tuple[int, int], size: int, extra: int) -> None:
        self.grid, self.extra = grid, extra
        # Along each side: {length of the part with full windows: size, rest: rest}.
        self.rows, self.cols = (
            {n: min(n, size) for n in (length // size * size, length % size) if n}
            for length in grid
        )
        sides = itertools.product(self.rows.items(), self.cols.items())
        # (N, n) of each window shape, in the order of the layout.
        self.shapes = [(h // a * (w // b), a * b) for (h, a), (w, b) in sides]
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


class BlockSettings(NamedTuple):
    """How the blocks of an encoder or decoder are run; no setting changes what they compute."""

    attn_fp32: bool = False  # attention in float32 under mixed precision
    with_cp: bool = False  # recompute in the backward pass
    compile_options: tuple | None = None  # arguments of torch.compile, hashable; None: do not

    @classmethod
    def of(cls, attn_fp32: bool, with_cp: bool, compile_blocks: bool | dict) -> 'BlockSettings':
        """From the arguments of MIRLViT and MIRLNeck."""
        if isinstance(compile_blocks, dict):
            return cls(attn_fp32, with_cp, tuple(sorted(compile_blocks.items())))
        if not isinstance(compile_blocks, bool | None):
            accepted = 'True, False or a dict of arguments of torch.compile'
            raise UserError(f'compile_blocks must be {accepted}, got {compile_blocks!r}')
        return cls(attn_fp32, with_cp, () if compile_blocks else None)

    def run(self, function: Callable[..., Tensor], *args: object) -> Tensor:
        """What the function makes of the arguments."""
        if self.compile_options is not None:
            function = compiled(function, self.compile_options)
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


@cache
def compiled(function: Callable, options: tuple) -> Callable:
    """The function through torch.compile: one copy for all equal blocks, which are its inputs."""
    return torch.compile(function, **dict(options))


class EncoderBlock(TransformerEncoderLayer):
    """A pre-norm block on [B, N, D], or in a window layout. Made by :func:`adopt`."""

    def forward(self, x: Tensor, windows: Windows | None = None) -> Tensor:
        """x [B, N, D] -> the same; with windows, x is in their layout."""
        return self.settings.run(run_block, self, x, windows)


def adopt(blocks: Iterable[TransformerEncoderLayer], settings: BlockSettings) -> None:
    """Turn mmpretrain's blocks, whose class it gives no choice of, into ours with their weights."""
    for block in blocks:
        block.__class__, block.settings = EncoderBlock, settings
    drops = [m for block in blocks for m in block.modules() if isinstance(m, DropPath)]
    for drop in drops:
        drop.drop_prob = float(drop.drop_prob)  # numpy's, which compilers cannot trace
    if settings.compile_options is not None and any(drop.drop_prob for drop in drops):
        for drop in drops:
            drop.__class__ = TensorDropPath
            drop.register_buffer('rate', torch.tensor(drop.drop_prob), persistent=False)


class TensorDropPath(DropPath):
    """mmcv's DropPath with the rate in a tensor, so that one graph serves blocks of every rate."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ...]; in training, whole images become 0, and the others grow to make up for it."""
        if not self.training:
            return x
        kept = 1 - self.rate
        noise = torch.rand((len(x), *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device)
        return x / kept * (kept + noise).floor()


def run_block(block: EncoderBlock, x: Tensor, windows: Windows | None) -> Tensor:
    """What a block computes."""
    attn, ffn, fp32 = block.attn, block.ffn, block.settings.attn_fp32
    run = Layers(x, (block.ln1, attn.qkv, attn.proj, block.ln2, *mlp_layers(ffn)))
    x, normed = run.norm(block.ln1, x)
    qkv = run(attn.qkv, normed)
    dropout = attn.attn_drop if attn.training else 0.0
    if windows is None:
        out = attend(*qkv.chunk(3, dim=-1), attn.num_heads, dropout, fp32)
    else:
        out = windows.attend(qkv, attn.num_heads, dropout, fp32)
    x = x + attn.out_drop(attn.gamma1(attn.proj_drop(run(attn.proj, out))))
    x, normed = run.norm(block.ln2, x)
    return feed_forward(ffn, run, normed, x)


def mlp_layers(ffn: nn.Module) -> list[nn.Module]:
    """The layers of mmcv's MLP, in order; none of another one."""
    if type(ffn) is not FFN:
        return []
    groups = (layer if isinstance(layer, nn.Sequential) else (layer,) for layer in ffn.layers)
    return [layer for group in groups for layer in group]


def feed_forward(ffn: nn.Module, run: Layers, x: Tensor, shortcut: Tensor) -> Tensor:
    """The MLP with its shortcut, without mmcv's look at argument names, which breaks graphs."""
    layers = mlp_layers(ffn)
    if not layers:
        return ffn(x, identity=shortcut)
    for layer in layers:
        x = run(layer, x)
    return shortcut + ffn.dropout_layer(ffn.gamma2(x))
