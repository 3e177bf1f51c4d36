"""One segment's decoder: tokens of a segment in, pixels out, looking at a context on the way.

Shapes: B batch, L patches, K kept patches, D encoder width, E decoder width, M context tokens.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .masking import restore

LN_EPS = 1e-6


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context; keys and values share one projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [B, L, E], context [B, M, E] -> [B, L, E]."""
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, L, E/heads]
        kv = self.kv(context).unflatten(-1, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # 2 x [B, heads, M, E/heads]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP, each with a shortcut."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.ln_self = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = MultiheadAttention(dim, num_heads)
        self.ln_query = nn.LayerNorm(dim, eps=LN_EPS)
        self.ln_context = nn.LayerNorm(dim, eps=LN_EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.ln_mlp = nn.LayerNorm(dim, eps=LN_EPS)
        self.ffn = FFN(dim, int(dim * mlp_ratio), act_cfg=dict(type='GELU'))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [B, 1+L, E], context [B, M, E] -> [B, 1+L, E]."""
        x = x + self.attn(self.ln_self(x))
        x = x + self.cross_attn(self.ln_query(x), self.ln_context(context))
        return self.ffn(self.ln_mlp(x), identity=x)


class SegmentDecoder(nn.Module):
    """Embeds a segment's visible tokens and paints all patches from them and a context.

    The prediction layer is weight-normed per *input* feature with the gain g frozen at 1 (the
    official Paddle ``weight_norm(dim=0)`` acts on an [in, out] weight, hence dim=1 here).

    Args:
        in_dim: D.
        dim: E.
        depth: number of blocks.
        num_heads: heads of both attentions.
        out_dim: values per patch, p*p*C.
        mlp_ratio: hidden width of the MLP over E.
    """

    def __init__(
        self, in_dim: int, dim: int, depth: int, num_heads: int, out_dim: int, mlp_ratio: float = 4
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(DecoderBlock(dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LN_EPS)
        self.pred = weight_norm(nn.Linear(dim, out_dim), dim=1)
        gain = self.pred.parametrizations.weight.original0
        gain.requires_grad_(False).fill_(1)

    def forward(
        self, visible: Tensor, ids_restore: Tensor, positions: Tensor, context: Tensor
    ) -> Tensor:
        """Paint the patches.

        Args:
            visible: [B, 1+K, E], embedded tokens, cls first.
            ids_restore: [B, L].
            positions: [1, 1+L, E].
            context: [B, M, E], tokens to look at.

        Returns:
            [B, L, p*p*C], in normalised-patch units.
        """
        patches = restore(visible[:, 1:], self.mask_token, ids_restore)
        x = torch.cat([visible[:, :1], patches], dim=1) + positions  # [B, 1+L, E]
        for block in self.blocks:
            x = block(x, context)
        return self.pred(self.norm(x)[:, 1:])
