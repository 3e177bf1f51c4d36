"""One segment's decoder: tokens of a segment in, pixels out, looking at a context on the way.

Shapes: B batch, L patches, K kept patches, D encoder width, E decoder width, M context tokens,
Q tokens whose output is wanted (all 1+L, or the masked L-K).
"""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .masking import gather_tokens, restore

LN_EPS = 1e-6


class SelfAttention(nn.Module):
    """Multi-head attention among tokens; some of them may be spared their output."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """x [B, N, E] -> [B, N, E], or [B, Q, E] for the tokens at rows [B, Q]."""
        if rows is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            sizes = [len(self.qkv.weight) // 3, len(self.qkv.weight) // 3 * 2]
            (w_q, w_kv), (b_q, b_kv) = self.qkv.weight.split(sizes), self.qkv.bias.split(sizes)
            q = F.linear(gather_tokens(x, rows), w_q, b_q)
            k, v = F.linear(x, w_kv, b_kv).chunk(2, dim=-1)
        return self.proj(attend(q, k, v, self.num_heads))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context; keys and values share one projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [B, Q, E], context [B, M, E] -> [B, Q, E]."""
        k, v = self.kv(context).chunk(2, dim=-1)
        return self.proj(attend(self.q(x), k, v, self.num_heads))


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """q [B, Q, E], k and v [B, M, E] -> [B, Q, E], every head within its own E/heads features."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP, each with a shortcut."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.ln_self = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.ln_query = nn.LayerNorm(dim, eps=LN_EPS)
        self.ln_context = nn.LayerNorm(dim, eps=LN_EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.ln_mlp = nn.LayerNorm(dim, eps=LN_EPS)
        self.ffn = FFN(dim, int(dim * mlp_ratio), act_cfg=dict(type='GELU'))

    def forward(self, x: Tensor, context: Tensor, rows: Tensor | None = None) -> Tensor:
        """x [B, 1+L, E], context [B, M, E] -> [B, 1+L, E], or [B, Q, E] for rows [B, Q]."""
        out = self.attn(self.ln_self(x), rows)
        x = out + (x if rows is None else gather_tokens(x, rows))
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
        self,
        visible: Tensor,
        ids_restore: Tensor,
        positions: Tensor,
        context: Tensor,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Paint the patches.

        Args:
            visible: [B, 1+K, E], embedded tokens, cls first.
            ids_restore: [B, L].
            positions: [1, 1+L, E].
            context: [B, M, E], tokens to look at.
            ids: [B, Q], the patches wanted; None paints all. The last block and what follows it
                skip the others. This is exact: no token of that block looks at another's output.

        Returns:
            [B, L or Q, p*p*C], in normalised-patch units.
        """
        patches = restore(visible[:, 1:], self.mask_token, ids_restore)
        x = torch.cat([visible[:, :1], patches], dim=1) + positions  # [B, 1+L, E]
        for block in self.blocks[:-1]:
            x = block(x, context)
        if ids is None:
            x = self.blocks[-1](x, context)[:, 1:]
        else:
            x = self.blocks[-1](x, context, ids + 1)  # cls comes first
        return self.pred(self.norm(x))
