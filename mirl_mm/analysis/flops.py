"""How many floating-point operations a training step needs for one image, in closed form.

Counted are matrix products and attention, a multiply-add as two operations; not norms, activations
and what is recomputed under activation checkpointing. So this is the *model's* work, the numerator
of model FLOP utilisation (PaLM, https://arxiv.org/abs/2204.02311, appendix B).

Shapes: L patches, K kept patches, D encoder width, E decoder width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import MAE, ImageClassifier, VisionTransformer
from torch import nn

from mirl_mm.engine.segments import unwrapped
from mirl_mm.models import MIRL
from mirl_mm.models.masking import num_kept


class Work(NamedTuple):
    """The work of one part of a model for one image."""

    macs: int  # multiply-adds of the forward pass
    passes: int  # 1: forward alone; 2: with the gradient of weights or of inputs; 3: with both


def training_flops_per_image(model: nn.Module | Mapping, batch: int | None = None) -> int:
    """Forward and backward pass of one image of the model's size.

    Args:
        model: a model or its config, in training form: MIRL, MAE, or an ImageClassifier on a plain
            ViT. Frozen blocks count as forward alone.
        batch: images that share what MIRL's decoders compute once a batch (the projections of
            masked tokens in their first block); None leaves it out, as a large batch does.

    Raises:
        ValueError: there is no closed form for such a model.
    """
    return 2 * sum(work.macs * work.passes for work in work_of(model, batch).values())


def forward_flops_per_image(model: nn.Module | Mapping, batch: int | None = None) -> int:
    """The forward pass alone, as in training (pre-training: masked); raises likewise."""
    return 2 * sum(work.macs for work in work_of(model, batch).values())


def work_of(model: nn.Module | Mapping, batch: int | None = None) -> dict[str, Work]:
    """The work by part, in the order of the forward pass; raises as the others."""
    if isinstance(model, Mapping):
        init_default_scope('mmpretrain')
        with torch.device('meta'):
            model = MODELS.build(model)
    model = unwrapped(model)
    vit = getattr(model, 'backbone', None)
    if not isinstance(model, MIRL | MAE | ImageClassifier) or not isinstance(
        vit, VisionTransformer
    ):
        raise ValueError(
            f'no closed form for the work of {type(model).__name__} on {type(vit).__name__}; there '
            'is one for MIRL, MAE and ImageClassifier on a plain ViT'
        )
    patches = vit.patch_resolution[0] * vit.patch_resolution[1]
    masked = not isinstance(model, ImageClassifier)
    kept = num_kept(patches, vit.mask_ratio) if masked else patches
    tokens = kept + vit.num_extra_tokens
    works = encoder_work(vit, kept if isinstance(model, MIRL) else patches, tokens)
    if isinstance(model, MIRL):
        works['decoders'] = Work(mirl_decoders(model, patches, kept), 3)
        if batch:
            works['masked tokens'] = Work(masked_tokens(model, patches) // batch, 3)
    elif isinstance(model, MAE):
        works['decoder'] = Work(mae_decoder(model.neck, patches, kept), 3)
    else:
        rest = (module for part in (model.neck, model.head) if part for module in part.modules())
        macs = sum(m.in_features * m.out_features for m in rest if isinstance(m, nn.Linear))
        learns = any(work.passes > 1 for work in works.values())
        works['head'] = Work(macs, 3 if learns else 2)
    return works


def encoder_work(vit: VisionTransformer, patches: int, tokens: int) -> dict[str, Work]:
    """The patch projection on those patches and the blocks on the tokens that enter them."""
    projection = vit.patch_embed.projection
    values = projection.in_channels * projection.kernel_size[0] * projection.kernel_size[1]
    macs = patches * values * projection.out_channels  # not from weights: they may be sharded
    trained = projection.weight.requires_grad
    works = {'patch projection': Work(macs, 2 if trained else 1)}
    for i, block in enumerate(vit.layers):
        learns = any(p.requires_grad for p in block.parameters())
        works[f'block {i}'] = Work(block_macs(block, tokens), 1 + learns + (learns or trained))
        trained = trained or learns
    return works


def block_macs(block: nn.Module, tokens: int) -> int:
    """A ViT block: its linear layers on every token, and attention between all of them."""
    width = block.attn.qkv.in_features
    return tokens * linear_weights(block) + 2 * tokens**2 * width


def linear_weights(module: nn.Module) -> int:
    """Multiply-adds of a token that goes through all linear layers inside."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))


def mirl_decoders(model: MIRL, patches: int, kept: int) -> int:
    """MIRL's neck; the last block of a decoder works for the masked patches alone.

    The first one projects visible tokens alone: masked ones are the same in every image.
    """
    neck, visible, masked = model.neck, kept + 1, patches - kept
    total = visible * linear_weights(neck.stem_embed)
    for g, decoder in enumerate(neck.decoders):
        total += visible * linear_weights(decoder.embed)
        for block in decoder.blocks:
            first, last = block is decoder.blocks[0], block is decoder.blocks[-1]
            total += decoder_block(
                block,
                queries=masked if last else patches + 1,
                tokens=patches + 1,
                context=(g + 1) * visible,
                projected=(0 if last else visible, visible) if first else None,
            )
        total += masked * linear_weights(decoder.pred)
    return total


def masked_tokens(model: MIRL, patches: int) -> int:
    """Queries, keys and values of every masked token, once a batch, in every first block."""
    return sum(
        patches * linear_weights(decoder.blocks[0].attn.qkv) for decoder in model.neck.decoders
    )


def decoder_block(
    block: nn.Module,
    queries: int,
    tokens: int,
    context: int,
    projected: tuple[int, int] | None,
) -> int:
    """Self-attention of queries to tokens, cross-attention of queries to the context, MLP.

    ``projected`` is how many of the queries and of the tokens self-attention projects; None: all.
    """
    width = block.attn.qkv.in_features
    own_queries, own_keys = projected or (queries, tokens)
    per_query = 3 * width**2 + linear_weights(block.ffn)  # both outputs, and q of the second
    total = queries * per_query + own_queries * width**2
    total += (own_keys + context) * 2 * width**2
    return total + 2 * queries * (tokens + context) * width


def mae_decoder(neck: nn.Module, patches: int, kept: int) -> int:
    """mmpretrain's MAE decoder; it predicts every patch and the cls token."""
    tokens = patches + 1
    total = (kept + 1) * linear_weights(neck.decoder_embed)
    total += sum(block_macs(block, tokens) for block in neck.decoder_blocks)
    return total + tokens * linear_weights(neck.decoder_pred)
