"""The residual neck: one decoder per segment, each looking back at all shallower ones.

Shapes: B batch, L patches, K kept patches, D encoder width, E decoder width, G segments.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mirl_mm.errors import CheckpointError, UserError

from .block import BlockSettings
from .decoder import LN_EPS, Layout, SegmentDecoder
from .fit import difference, shapes
from .half import Layers
from .masking import gather_tokens, sincos_positions
from .vit import MaskedFeatures, init_linears, is_pretrained


@MODELS.register_module()
class MIRLNeck(BaseModule):
    """G decoders with a growing context.

    The last segment is normed by the encoder's own final norm; the norms of the others and of the
    stem live here, so that the encoder keeps the names of a stock ViT.

    ``embed_dim`` is D; ``decoder_embed_dim`` is E, a multiple of 4 and of the heads; ``mlp_ratio``
    is the hidden width of the MLPs over E. Without ``context`` every decoder sees its own segment
    alone, and has no cross-attention. ``with_cp``, ``attn_fp32`` and ``compile_blocks`` are those
    of MIRLViT, for the decoders' blocks.
    """

    def __init__(
        self,
        embed_dim: int,
        num_segments: int = 6,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4,
        patch_size: int = 16,
        in_channels: int = 3,
        context: bool = True,
        with_cp: bool = False,
        attn_fp32: bool = False,
        compile_blocks: bool | dict = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_segments < 1:
            raise UserError(f'num_segments must be at least 1, got {num_segments}')
        if decoder_depth < 1:
            raise UserError(f'decoder_depth must be at least 1, got {decoder_depth}')
        if decoder_embed_dim % decoder_num_heads or decoder_embed_dim % 4:
            needed = f'a multiple of 4 and of decoder_num_heads={decoder_num_heads}'
            raise UserError(f'decoder_embed_dim={decoder_embed_dim} must be {needed}')
        self.embed_dim, self.num_segments = embed_dim, num_segments
        self.context = context
        self.patch_size, self.in_channels = patch_size, in_channels
        if context:
            self.stem_norm = nn.LayerNorm(embed_dim, eps=LN_EPS)
            self.stem_embed = nn.Linear(embed_dim, decoder_embed_dim)
        norms = (nn.LayerNorm(embed_dim, eps=LN_EPS) for _ in range(num_segments - 1))
        self.norms = nn.ModuleList(norms)
        sizes = (embed_dim, decoder_embed_dim, decoder_depth, patch_size**2 * in_channels)
        settings = BlockSettings.of(attn_fp32, with_cp, compile_blocks)
        block = dict(num_heads=decoder_num_heads, mlp_ratio=mlp_ratio, settings=settings)
        block['context'] = context
        self.decoders = nn.ModuleList(SegmentDecoder(*sizes, **block) for _ in range(num_segments))
        self._table: tuple | None = None  # no buffer: averaging models needs those of one size
        self._register_load_state_dict_pre_hook(self._refuse_other_decoders)

    def init_weights(self) -> None:
        """Xavier-uniform matrices, zero biases, mask tokens N(0, 0.02), gains 1; or pre-trained."""
        super().init_weights()
        if is_pretrained(self.init_cfg):
            return
        init_linears(self)
        for decoder in self.decoders:
            nn.init.normal_(decoder.mask_token, std=0.02)
            weight = decoder.pred.parametrizations.weight
            nn.init.xavier_uniform_(weight.original1)
            nn.init.ones_(weight.original0)

    def forward(self, features: MaskedFeatures, ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """All patches, or those at ids [B, Q], from shallow to deep: G x [B, L or Q, p*p*C]."""
        rows = features.ids_restore if ids is None else features.ids_restore.gather(1, ids)
        return tuple(gather_tokens(pred, rows + 1) for pred in self._paint(features, slice(None)))

    def paint_masked(self, features: MaskedFeatures) -> tuple[Tensor, ...]:
        """The masked patches alone, in the order of ``masked_ids``: G x [B, L-K, p*p*C].

        The same numbers for less work: a decoder's last block skips the visible tokens.
        """
        return tuple(self._paint(features, slice(features.stem.shape[1], None)))

    def _paint(self, features: MaskedFeatures, wanted: slice) -> list[Tensor]:
        """G x [B, Q, p*p*C] for the wanted tokens of the sequences cls, kept, masked."""
        stem = (self.stem_norm, self.stem_embed) if self.context else ()
        run = Layers(features.stem, (*stem, *self.norms))
        layout, context = self._layout(features, wanted, run), []
        if self.context:
            context = [run(self.stem_embed, run.norm(self.stem_norm, features.stem)[1])]
        preds = []
        for decoder, tokens in zip(self.decoders, self.normed_taps(features, run), strict=True):
            own = decoder.layers(tokens)
            visible = own(decoder.embed, tokens)  # [B, 1+K, E]
            seen = torch.cat(context, dim=1) if self.context else None
            preds.append(decoder(own, visible, seen, layout))
            context.insert(0, visible)  # one more segment to look back at
        return preds

    def _layout(self, features: MaskedFeatures, wanted: slice, run: Layers) -> Layout:
        batch, visible, _ = features.stem.shape
        positions = run.cast(self._positions(features.grid)[0])  # [1+L, E]
        order = features.ids_restore.argsort(dim=1)  # [B, L], kept patches first
        places = F.pad(order[:, : visible - 1] + 1, (1, 0))  # [B, 1+K], cls first
        kept = torch.arange(batch * visible, device=order.device).unflatten(0, (batch, visible))
        masked = order[:, visible - 1 :] + batch * visible
        sequences = torch.cat([kept, masked], dim=1)
        return Layout(F.embedding(places, positions), positions[1:], sequences, wanted)

    def normed_taps(self, features: MaskedFeatures, run: Layers | None = None) -> list[Tensor]:
        """The segments' outputs after their LayerNorms: G x [B, 1+K, D]."""
        run = run or Layers(features.stem, self.norms)
        *taps, last = features.taps
        return [*(run.norm(n, tap)[1] for n, tap in zip(self.norms, taps, strict=True)), last]

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Sine-cosine table of this grid [1, 1+L, E]; follows the images' size."""
        like = self.decoders[0].mask_token  # [1, 1, E]
        key = (grid, like.device, like.dtype)
        if self._table is None or self._table[0] != key:
            self._table = (key, sincos_positions(like.shape[-1], grid).to(like))
        return self._table[1]

    def _refuse_other_decoders(self, state_dict: dict, prefix: str, *_) -> None:
        """Stop a load that would fill the decoders only in part; a bare encoder may come."""
        own = {prefix + name: shape for name, shape in shapes(self.state_dict()).items()}
        parts = tuple(f'{prefix}{part}.' for part, _ in self.named_children())
        given = {n: shape for n, shape in shapes(state_dict).items() if n.startswith(parts)}
        kind = f'{self.num_segments} decoders{"" if self.context else " without context"}'
        who = f'this neck ({kind} for an encoder {self.embed_dim} wide)'
        if given and (reason := difference(given, own, who)):
            raise CheckpointError(f'the checkpoint has other decoders: {reason}')
