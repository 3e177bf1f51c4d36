"""Which part of a model a parameter belongs to: a segment of the encoder, a decoder, a head."""

import re
from collections.abc import Iterable

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from .archs import ARCHS

# What torch.compile, FSDP and activation checkpointing put into names.
_INSIDE = re.compile(r'(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
_STEM = ('patch_embed', 'pos_embed', 'cls_token', 'register_tokens', 'pre_norm')


def parameter_segments(model: nn.Module) -> dict[str, str]:
    """The name of every parameter, as ``model.named_parameters()`` has it, and its label.

    Labels are ``stem`` (patch projection, positions, cls), ``segment_0``, ... of the encoder's
    blocks (its final norm counts to the last), ``decoder_0``, ... of MIRL's neck, and for the rest
    the part of the model, such as ``head``; so is an encoder without blocks. DDP, FSDP and
    torch.compile may be around it.
    """
    backbone = getattr(unwrapped(model), 'backbone', None)
    blocks = getattr(backbone, 'layers', None)
    depth = len(blocks) if isinstance(blocks, nn.ModuleList | nn.Sequential) else 0
    per_segment = depth // num_segments(backbone) if depth else 0
    clean = strip_wrappers(name for name, _ in model.named_parameters())
    return {name: _label(short, depth, per_segment) for name, short in clean.items()}


def num_segments(backbone: nn.Module) -> int:
    """G of an encoder with blocks: its own, its size's in the arch table, or a fitting number."""
    if own := getattr(backbone, 'num_segments', None):
        return own
    depth, width = len(backbone.layers), getattr(backbone, 'embed_dims', None)
    known = {(a['num_layers'], a['embed_dims']): a['num_segments'] for a in ARCHS.values()}
    return known.get((depth, width)) or next(g for g in (6, 4, 3, 2, 1) if depth % g == 0)


def strip_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Name -> the name without what DDP, FSDP or torch.compile put in front of or inside it."""
    clean = {name: _INSIDE.sub('', name) for name in names}
    while clean and all(name.startswith('module.') for name in clean.values()):
        clean = {name: short.removeprefix('module.') for name, short in clean.items()}
    return clean


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what distributed training, or a test on views, put around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether a process holds but a part of the weights (FSDP, or DTensors)."""
    parts = (*model.modules(), *model.parameters())
    return any(isinstance(part, FullyShardedDataParallel | DTensor) for part in parts)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, which is a whole one without sharding."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _label(name: str, depth: int, per_segment: int) -> str:
    part, *rest = name.split('.')
    if part == 'backbone' and depth:
        if rest[0] == 'layers':
            return f'segment_{int(rest[1]) // per_segment}'
        return 'stem' if rest[0] in _STEM else f'segment_{(depth - 1) // per_segment}'
    if part == 'neck' and rest[0] == 'decoders':
        return f'decoder_{rest[1]}'
    return part
