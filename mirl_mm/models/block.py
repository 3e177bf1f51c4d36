"""The encoder's block: mmpretrain's parameters and numbers, with a say in speed and memory.

Shapes: B batch, N tokens, D width.
"""

from collections.abc import Callable, Iterable
from functools import cache

import torch
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mirl_mm.errors import UserError

from .attention import attend
from .half import Layers
from .windows import Windows


class EncoderBlock(TransformerEncoderLayer):
    """A pre-norm block on [B, N, D], or in a window layout. Made by :func:`adopt`."""

    attn_fp32 = False
    with_cp = False
    compile_options: tuple | None = None

    def forward(self, x: Tensor, windows: Windows | None = None) -> Tensor:
        """x [B, N, D] -> the same; with windows, x is in their layout."""
        run = run_block
        if self.compile_options is not None:
            run = compiled(run_block, self.compile_options)
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(run, self, x, windows, use_reentrant=False)
        return run(self, x, windows)


def adopt(
    blocks: Iterable[TransformerEncoderLayer],
    attn_fp32: bool,
    with_cp: bool,
    compile_options: tuple | None,
) -> None:
    """Turn mmpretrain's blocks into ours, with their parameters.

    Its VisionTransformer has no argument for the class of a block; to build each a second time
    would draw 341 M numbers for nothing.
    """
    for block in blocks:
        block.__class__ = EncoderBlock
        block.attn_fp32, block.with_cp, block.compile_options = attn_fp32, with_cp, compile_options
        for module in block.modules():
            if isinstance(module, DropPath):
                module.drop_prob = float(module.drop_prob)  # numpy's, which compilers cannot trace
    drops = [
        module for block in blocks for module in block.modules() if isinstance(module, DropPath)
    ]
    if compile_options is not None and any(drop.drop_prob for drop in drops):
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
    attn, ffn = block.attn, block.ffn
    run = Layers(x, (block.ln1, attn.qkv, attn.proj, block.ln2, *mlp_layers(ffn)))
    x, normed = run.norm(block.ln1, x)
    qkv = run(attn.qkv, normed)
    dropout = attn.attn_drop if attn.training else 0.0
    if windows is None:
        out = attend(*qkv.chunk(3, dim=-1), attn.num_heads, dropout, block.attn_fp32)
    else:
        out = windows.attend(qkv, attn.num_heads, dropout, block.attn_fp32)
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


@cache
def compiled(function: Callable, options: tuple) -> Callable:
    """The function through torch.compile; one copy serves all blocks of a model.

    It takes modules as arguments, so that their parameters are inputs of the compiled code: equal
    blocks share it, and state dicts keep their names.
    """
    return torch.compile(function, **dict(options))


def compile_settings(compile_blocks: bool | dict) -> tuple | None:
    """``compile_blocks`` of a model as arguments of torch.compile, hashable; None for False."""
    if compile_blocks is True:
        return ()
    if isinstance(compile_blocks, dict):
        return tuple(sorted(compile_blocks.items()))
    if compile_blocks is False or compile_blocks is None:
        return None
    raise UserError(
        f'compile_blocks must be True, False or a dict of arguments of torch.compile, '
        f'got {compile_blocks!r}'
    )
