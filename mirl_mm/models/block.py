"""The encoder's block: mmpretrain's parameters and numbers, with a say in speed and memory.

Shapes: B batch, N tokens, D width.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mirl_mm.errors import UserError

from .attention import Windows, attend
from .half import Layers


class BlockSettings(NamedTuple):
    """How the blocks of an encoder or decoder are run; no setting changes what they compute."""

    attn_fp32: bool = False  # attention in float32 under mixed precision
    with_cp: bool = False  # recompute in the backward pass
    compile_options: tuple | None = None  # arguments of torch.compile, hashable; None: do not

    @classmethod
    def of(cls, attn_fp32: bool, with_cp: bool, compile_blocks: bool | dict) -> 'BlockSettings':
        """From the arguments of MIRLViT and MIRLNeck."""
        match compile_blocks:
            case None | False:
                options = None
            case True:
                options = ()
            case dict():
                options = tuple(sorted(compile_blocks.items()))
            case _:
                raise UserError(
                    'compile_blocks must be True, False or a dict of arguments of torch.compile, '
                    f'got {compile_blocks!r}'
                )
        return cls(attn_fp32, with_cp, options)

    def run(self, function: Callable[..., Tensor], *args: object) -> Tensor:
        """What the function makes of the arguments."""
        if self.compile_options is not None:
            function = compiled(function, self.compile_options)
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


@cache
def compiled(function: Callable, options: tuple) -> Callable:
    """The function through torch.compile; one copy serves all blocks of a model.

    It takes modules as arguments, so that their parameters are inputs of the compiled code: equal
    blocks share it, and state dicts keep their names.
    """
    return torch.compile(function, **dict(options))


class EncoderBlock(TransformerEncoderLayer):
    """A pre-norm block on [B, N, D], or in a window layout. Made by :func:`adopt`."""

    settings: BlockSettings

    def forward(self, x: Tensor, windows: Windows | None = None) -> Tensor:
        """x [B, N, D] -> the same; with windows, x is in their layout."""
        return self.settings.run(run_block, self, x, windows)


def adopt(blocks: Iterable[TransformerEncoderLayer], settings: BlockSettings) -> None:
    """Turn mmpretrain's blocks into ours, with their parameters.

    Its VisionTransformer has no argument for the class of a block; to build each a second time
    would draw 341 M numbers for nothing.
    """
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
