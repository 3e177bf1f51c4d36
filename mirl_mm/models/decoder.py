"""One segment's decoder: tokens of a segment in, pixels out, looking at a context on the way.

A masked patch enters as the mask token plus its position, the same in every image. So the first
block projects it once for the batch; and the last block works only for the tokens whose output is
wanted. Both are exact.

Shapes: B batch, L patches, K kept patches, D encoder width, E decoder width, M context tokens,
Q tokens whose output is wanted (all 1+L, or the masked L-K), S different tokens, B*(1+K)+L.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from .attention import attend
from .block import compiled, feed_forward

LN_EPS = 1e-6


class Layout(NamedTuple):
    """Where the tokens of a batch sit; all decoders share it. A sequence is cls, kept, masked."""

    kept_positions: Tensor  # [B, 1+K, E]
    positions: Tensor  # [L, E]
    sequences: Tensor  # [B, 1+L], which of the S different tokens
    wanted: slice  # of a sequence; all, or the masked patches


class SelfAttention(nn.Module):
    """Parameters of multi-head attention among tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def queries(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        width = len(self.proj.weight)
        return F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])

    def keys_values(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., 2*E]."""
        width = len(self.proj.weight)
        return F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context; keys and values share one projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, fp32: bool = False) -> Tensor:
        """x [B, Q, E], context [B, M, E] -> [B, Q, E]."""
        k, v = self.kv(context).chunk(2, dim=-1)
        return self.proj(attend(self.q(x), k, v, self.num_heads, fp32=fp32))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP, each with a shortcut."""

    attn_fp32 = False
    with_cp = False
    compile_options: tuple | None = None

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.ln_self = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.ln_query = nn.LayerNorm(dim, eps=LN_EPS)
        self.ln_context = nn.LayerNorm(dim, eps=LN_EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.ln_mlp = nn.LayerNorm(dim, eps=LN_EPS)
        self.ffn = FFN(dim, int(dim * mlp_ratio), act_cfg=dict(type='GELU'))

    def forward(self, x: Tensor, context: Tensor, wanted: slice) -> Tensor:
        """x [B, 1+L, E], context [B, M, E] -> [B, Q, E], the wanted tokens of each sequence."""
        normed = self.ln_self(x)
        if wanted == slice(None):
            q, k, v = self.attn.qkv(normed).chunk(3, dim=-1)
        else:
            q = self.attn.queries(normed[:, wanted])
            k, v = self.attn.keys_values(normed).chunk(2, dim=-1)
        return self._attend_and_mix(x[:, wanted], q, k, v, context)

    def first(self, tokens: Tensor, context: Tensor, layout: Layout) -> Tensor:
        """The same for sequences of repeated tokens: [S, E], context [B, M, E] -> [B, Q, E]."""
        normed, sequences = self.ln_self(tokens), layout.sequences
        if layout.wanted == slice(None):
            queries = sequences
            q, k, v = F.embedding(sequences, self.attn.qkv(normed)).chunk(3, dim=-1)
            shortcut = F.embedding(sequences, tokens)
        else:  # masked patches alone: their tokens are the last L
            queries = sequences[:, layout.wanted] - (len(tokens) - len(layout.positions))
            masked = slice(-len(layout.positions), None)
            q = F.embedding(queries, self.attn.queries(normed[masked]))
            k, v = F.embedding(sequences, self.attn.keys_values(normed)).chunk(2, dim=-1)
            shortcut = F.embedding(queries, tokens[masked])
        return self._attend_and_mix(shortcut, q, k, v, context)

    def _attend_and_mix(self, *tensors: Tensor) -> Tensor:
        function = attend_and_mix
        if self.compile_options is not None:
            function = compiled(attend_and_mix, self.compile_options)
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, self, *tensors, use_reentrant=False)
        return function(self, *tensors)


def attend_and_mix(
    block: DecoderBlock, x: Tensor, q: Tensor, k: Tensor, v: Tensor, context: Tensor
) -> Tensor:
    """A block after the projections of its self-attention; x and q [B, Q, E] -> [B, Q, E]."""
    attn, fp32 = block.attn, block.attn_fp32
    x = x + attn.proj(attend(q, k, v, attn.num_heads, fp32=fp32))
    x = x + block.cross_attn(block.ln_query(x), block.ln_context(context), fp32)
    return feed_forward(block.ffn, block.ln_mlp(x), x)


class SegmentDecoder(nn.Module):
    """Embeds a segment's visible tokens and paints patches from them and a context.

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

    def forward(self, visible: Tensor, context: Tensor, layout: Layout) -> Tensor:
        """Paint the wanted patches.

        Args:
            visible: [B, 1+K, E], embedded tokens, cls first.
            context: [B, M, E], tokens to look at.
            layout: where the tokens sit, and which output is wanted.

        Returns:
            [B, Q, p*p*C], in normalised-patch units.
        """
        kept = (visible + layout.kept_positions).flatten(0, 1)  # [B*(1+K), E]
        tokens = torch.cat([kept, self.mask_token[0] + layout.positions])  # [S, E]
        first, *others = self.blocks
        if others:
            everything = layout._replace(wanted=slice(None))
            x = first.first(tokens, context, everything)  # [B, 1+L, E]
            for block in others[:-1]:
                x = block(x, context, everything.wanted)
            x = others[-1](x, context, layout.wanted)
        else:
            x = first.first(tokens, context, layout)
        return self.pred(self.norm(x))
