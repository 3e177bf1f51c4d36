"""MIRL written out plainly in PyTorch, to hold the package against.

The equations of "Masked Image Residual Learning for Scaling Deeper Vision Transformers"
(https://arxiv.org/abs/2309.14136) with the parameter names of the official code, one module per
name: attention is a matrix product and a softmax, nothing is shared or fused. It is itself held to
the official numbers in tests/models/test_golden.py.

Shapes: B images, L patches, K kept patches, N or M tokens, D encoder width, E decoder width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    stem: Tensor  # norm_low(tokens entering block 0) [B, 1+K, D]
    feats: list[Tensor]  # every segment's output after its norm, each [B, 1+K, D]
    preds: list[Tensor]  # one per segment, each [B, L, p*p*3]
    target: Tensor  # [B, L, p*p*3]
    mask: Tensor  # [B, L], 1 where masked
    ids_restore: Tensor  # [B, L]
    pair_losses: Tensor  # [G/2], or [G] without pairs
    loss: Tensor  # []


class Reference(nn.Module):
    """Official numbers in, official names out: ``decoder_*`` describe the decoders."""

    def __init__(
        self,
        img_size: tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        segments: int = 6,
        mask_ratio: float = 0.75,
        pairing: str = 'mirrored',
        context: bool = True,
    ) -> None:
        super().__init__()
        self.patch, self.segments, self.mask_ratio = patch, segments, mask_ratio
        self.pairing, self.context = pairing, context
        grid = (img_size[0] // patch, img_size[1] // patch)
        pixels = patch * patch * 3

        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer('pos_embed', sincos(width, grid))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        if context:
            self.norm_low = layer_norm(width)
            self.decoder_embed0_1 = nn.Linear(width, decoder_width)  # of the stem
        for g in range(segments):
            last = g == segments - 1
            setattr(self, 'norm' if last else f'norm{g}', layer_norm(width))
            setattr(self, f'decoder_embed{g}', nn.Linear(width, decoder_width))
            setattr(self, f'mask_token{g}', nn.Parameter(torch.zeros(1, 1, decoder_width)))
            self.register_buffer(f'decoder_pos_embed{g}', sincos(decoder_width, grid))
            setattr(
                self,
                f'decoder_blocks{g}',
                nn.ModuleList(
                    DecoderBlock(decoder_width, decoder_heads, context)
                    for _ in range(decoder_depth)
                ),
            )
            setattr(self, f'decoder_norm{g}', layer_norm(decoder_width))
            setattr(self, f'decoder_pred{g}', WeightNormLinear(decoder_width, pixels))

    def forward(self, imgs: Tensor, noise: Tensor) -> Output:
        # Patches, and the K with the smallest noise.
        tokens = self.patch_embed.proj(imgs).flatten(2).transpose(1, 2)  # [B, L, D]
        tokens = tokens + self.pos_embed[:, 1:]
        order = noise.argsort(dim=1, stable=True)
        ids_restore = order.argsort(dim=1)
        kept = int(noise.shape[1] * (1 - self.mask_ratio))
        mask = (ids_restore >= kept).to(imgs.dtype)
        rows = torch.arange(len(imgs), device=imgs.device)[:, None]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(imgs), -1, -1)
        x = torch.cat([cls, tokens[rows, order[:, :kept]]], dim=1)  # [B, 1+K, D]

        # Encoder, tapped at the end of every segment.
        stem = self.norm_low(x) if self.context else x
        feats = []
        length = len(self.blocks) // self.segments
        for g in range(self.segments):
            for i in range(g * length, (g + 1) * length):
                x = self.blocks[i](x)
            norm = self.norm if g == self.segments - 1 else getattr(self, f'norm{g}')
            feats.append(norm(x))

        # One decoder per segment; each looks back at the shallower ones and the stem, or at none.
        context = self.decoder_embed0_1(stem) if self.context else None
        preds = []
        for g in range(self.segments):
            visible = getattr(self, f'decoder_embed{g}')(feats[g])  # [B, 1+K, E]
            fill = getattr(self, f'mask_token{g}').expand(len(imgs), noise.shape[1] - kept, -1)
            patches = torch.cat([visible[:, 1:], fill], dim=1)[rows, ids_restore]
            y = torch.cat([visible[:, :1], patches], dim=1)  # [B, 1+L, E]
            y = y + getattr(self, f'decoder_pos_embed{g}')
            for block in getattr(self, f'decoder_blocks{g}'):
                y = block(y, context)
            y = getattr(self, f'decoder_norm{g}')(y)
            preds.append(getattr(self, f'decoder_pred{g}')(y)[:, 1:])
            context = torch.cat([visible, context], dim=1) if self.context else None

        # Shallow and mirrored deep prediction add up to the normalised pixels of masked patches; or
        # those of neighbours do, or every one is to be the pixels itself.
        painted = {
            'mirrored': lambda: [preds[g] + preds[-1 - g] for g in range(self.segments // 2)],
            'neighbours': lambda: [a + b for a, b in zip(preds[::2], preds[1::2], strict=True)],
            'none': lambda: preds,
        }[self.pairing]()
        target = normalised_patches(imgs, self.patch)
        pair_losses = []
        for each in painted:
            error = (each - target) ** 2
            pair_losses.append((error.mean(dim=-1) * mask).sum() / mask.sum())
        pair_losses = torch.stack(pair_losses)
        return Output(
            stem, feats, preds, target, mask, ids_restore, pair_losses, pair_losses.mean()
        )


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(dim), layer_norm(dim)
        self.attn, self.mlp = SelfAttention(dim, heads), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, context: bool) -> None:
        super().__init__()
        self.norm1, self.norm4 = layer_norm(dim), layer_norm(dim)
        self.attn, self.mlp = SelfAttention(dim, heads), Mlp(dim)
        if context:
            self.norm2, self.norm3 = layer_norm(dim), layer_norm(dim)
            self.cross_attn = CrossAttention(dim, heads)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x))
        if context is not None:
            x = x + self.cross_attn(self.norm2(x), self.norm3(context))
        return x + self.mlp(self.norm4(x))


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(dim, dim),
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = self.kv(context).chunk(2, dim=-1)
        return self.proj(attend(self.q(x), k, v, self.heads))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class WeightNormLinear(nn.Module):
    """The weight of every input feature has the length weight_g, which is frozen at 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.randn(outputs, inputs) * 0.02)
        self.weight_g = nn.Parameter(torch.ones(inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        length = self.weight_v.pow(2).sum(dim=0).sqrt()  # [inputs]
        return x @ (self.weight_v * self.weight_g / length).t() + self.bias


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """q [B, N, E], k and v [B, M, E] -> [B, N, E]; every head sees its own E/heads features."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)  # [B, heads, N, M]
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)


def normalised_patches(imgs: Tensor, p: int) -> Tensor:
    """[B, 3, H, W] -> [B, L, p*p*3], row by row, channel fastest, each of mean 0 and variance 1."""
    b, c, height, width = imgs.shape
    cut = imgs.reshape(b, c, height // p, p, width // p, p)
    patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)
    mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def sincos(dim: int, grid: tuple[int, int]) -> Tensor:
    """[1, 1+L, dim] float32: zeros for cls; sin and cos of the column, then of the row."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    table = [torch.zeros(dim, dtype=torch.float64)]
    for row in range(grid[0]):
        for col in range(grid[1]):
            table.append(
                torch.cat(
                    [
                        (col * omega).sin(),
                        (col * omega).cos(),
                        (row * omega).sin(),
                        (row * omega).cos(),
                    ]
                )
            )
    return torch.stack(table)[None].float()


def randomise(model: Reference, seed: int = 0) -> Reference:
    """Draw every parameter, gains and biases included, so that none hides behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        z = torch.randn(parameter.shape, generator=generator)
        if name.endswith('weight_g'):
            value = (1 + 0.25 * z).clamp(min=0.3)
        elif 'norm' in name and name.endswith('weight'):
            value = 1 + 0.1 * z
        else:
            value = 0.1 * z
        parameter.data.copy_(value)
    return model
