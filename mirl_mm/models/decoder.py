"""One segment's decoder: tokens of a segment in, pixels out, looking at a context on the way.

A masked patch enters as the mask token plus its position, the same in every image, so that the
first block projects it once for the batch; the last block works only for tokens whose output is
wanted. Both are exact.

Shapes: B batch, L patches, K kept patches, D encoder width, E decoder width, M context tokens,
Q tokens whose output is wanted (all 1+L, or the masked L-K), S different tokens, B*(1+K)+L.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .block import BlockSettings, attend, feed_forward, mlp_layers
from .half import Layers

LN_EPS = 1e-6
ALL = slice(None)


class Layout(NamedTuple):
    """Where the tokens of a batch sit; all decoders share it. A sequence is cls, kept, masked."""

    kept_positions: Tensor  # [B, 1+K, E]
    positions: Tensor  # [L, E]
    sequences: Tensor  # [B, 1+L], which of the S different tokens
    wanted: slice  # of a sequence; all, or the masked patches


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP, each with a shortcut.

    Without ``context`` there is no cross-attention.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, settings: BlockSettings, context=True
    ) -> None:
        super().__init__()
        self.num_heads, self.settings, self.context = num_heads, settings, context
        linear = partial(nn.Linear, dim)
        self.ln_self = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = nn.ModuleDict(dict(qkv=linear(3 * dim), proj=linear(dim)))
        if context:
            self.ln_query = nn.LayerNorm(dim, eps=LN_EPS)
            self.ln_context = nn.LayerNorm(dim, eps=LN_EPS)
            cross = dict(q=linear(dim), kv=linear(2 * dim), proj=linear(dim))
            self.cross_attn = nn.ModuleDict(cross)
        self.ln_mlp = nn.LayerNorm(dim, eps=LN_EPS)
        self.ffn = FFN(dim, int(dim * mlp_ratio), act_cfg=dict(type='GELU'))

    def layers(self) -> tuple[nn.Module, ...]:
        """Those with weights."""
        cross = ()
        if self.context:
            cross = (self.ln_query, self.ln_context, *self.cross_attn.values())
        return self.ln_self, self.ln_mlp, *self.attn.values(), *cross, *mlp_layers(self.ffn)

    def forward(self, run: Layers, x: Tensor, context: Tensor | None, wanted: slice) -> Tensor:
        """x [B, 1+L, E], context [B, M, E] -> [B, Q, E], the wanted tokens of each sequence."""
        x, normed = run.norm(self.ln_self, x)
        if wanted == ALL:
            q, k, v = run(self.attn.qkv, normed).chunk(3, dim=-1)
        else:
            queries, keys_values = self._projections(run)
            q = F.linear(normed[:, wanted], *queries)
            k, v = F.linear(normed, *keys_values).chunk(2, dim=-1)
        return self._attend_and_mix(run, x[:, wanted], (q, k, v), context)

    def first(self, run: Layers, tokens: Tensor, context: Tensor | None, layout: Layout) -> Tensor:
        """The same for sequences of repeated tokens: [S, E], context [B, M, E] -> [B, Q, E]."""
        sequences = layout.sequences
        tokens, normed = run.norm(self.ln_self, tokens)
        if layout.wanted == ALL:
            q, k, v = F.embedding(sequences, run(self.attn.qkv, normed)).chunk(3, dim=-1)
            shortcut = F.embedding(sequences, tokens)
        else:  # masked patches alone: their tokens are the last L
            queries = sequences[:, layout.wanted] - (len(tokens) - len(layout.positions))
            masked = slice(-len(layout.positions), None)
            of_queries, of_others = self._projections(run)
            q = F.embedding(queries, F.linear(normed[masked], *of_queries))
            k, v = F.embedding(sequences, F.linear(normed, *of_others)).chunk(2, dim=-1)
            shortcut = F.embedding(queries, tokens[masked])
        return self._attend_and_mix(run, shortcut, (q, k, v), context)

    def _projections(self, run: Layers) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the queries, and those of keys and values."""
        width = self.attn.proj.in_features
        split = [each.split([width, 2 * width]) for each in run.weights(self.attn.qkv)]
        return [*zip(*split, strict=True)]

    def _attend_and_mix(self, run: Layers, x: Tensor, qkv: tuple, context: Tensor | None) -> Tensor:
        function = attend_and_mix
        if self.settings.compile_options is None:
            function = partial(function, run=run)
        elif context is not None:
            torch._dynamo.maybe_mark_dynamic(context, 1)  # it grows from decoder to decoder
        return self.settings.run(function, self, x, qkv, context)


def attend_and_mix(
    block: DecoderBlock, x: Tensor, qkv: tuple, context: Tensor | None, run: Layers | None = None
) -> Tensor:
    """A block after its self-attention's projections, q, k and v; x [B, Q, E] -> the same."""
    run = run or Layers(x, block.layers())
    attention = partial(attend, num_heads=block.num_heads, fp32=block.settings.attn_fp32)
    x = x + run(block.attn.proj, attention(*qkv))
    if block.context:
        cross = block.cross_attn
        x, normed = run.norm(block.ln_query, x)
        _, context = run.norm(block.ln_context, context)
        k, v = run(cross.kv, context).chunk(2, dim=-1)
        x = x + run(cross.proj, attention(run(cross.q, normed), k, v))
    x, normed = run.norm(block.ln_mlp, x)
    return feed_forward(block.ffn, run, normed, x)


class SegmentDecoder(nn.Module):
    """Embeds a segment's visible tokens and paints patches from them and a context.

    The prediction layer is weight-normed per *input* feature with the gain g frozen at 1 (the
    official Paddle ``weight_norm(dim=0)`` acts on an [in, out] weight, hence dim=1 here).
    ``in_dim`` is D, ``dim`` E and ``out_dim`` p*p*C; ``block`` are the blocks' other arguments.
    """

    def __init__(self, in_dim: int, dim: int, depth: int, out_dim: int, **block) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(DecoderBlock(dim, **block) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LN_EPS)
        self.pred = weight_norm(nn.Linear(dim, out_dim), dim=1)
        self.pred.parametrizations.weight.original0.requires_grad_(False).fill_(1)

    def layers(self, like: Tensor) -> Layers:
        """What runs this decoder's layers."""
        blocks = [layer for block in self.blocks for layer in block.layers()]
        return Layers(like, (self.embed, *blocks, self.norm), self.mask_token)

    def forward(
        self, run: Layers, visible: Tensor, context: Tensor | None, layout: Layout
    ) -> Tensor:
        """Visible [B, 1+K, E], a context [B, M, E] -> [B, Q, p*p*C], in normalised-patch units."""
        kept = (visible + layout.kept_positions).flatten(0, 1)  # [B*(1+K), E]
        x = torch.cat([kept, run.cast(self.mask_token)[0] + layout.positions])  # [S, E]
        for i, block in enumerate(self.blocks, start=1):
            wanted = layout.wanted if i == len(self.blocks) else ALL
            if i == 1:
                x = block.first(run, x, context, layout._replace(wanted=wanted))
            else:
                x = block(run, x, context, wanted)
        return self.pred(run.norm(self.norm, x)[1])
