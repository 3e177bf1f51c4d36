"""From a checkpoint file of any form to another file, with an account of every name."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmpretrain.models import VisionTransformer
from torch import Size, Tensor

from mirl_mm import __version__
from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE, EncoderArch, check_same
from mirl_mm.models.fit import Shapes, compare, shapes, summary
from mirl_mm.models.neck import MIRLNeck

from .account import by_part, counted, described, timm_call
from .loading import config_shapes
from .names import backbone_state, timm_name, to_ours, to_timm
from .reading import CheckpointFile, open_checkpoint
from .writing import check_destination, write_checkpoint

TARGETS = {'mirl': dict, 'backbone': backbone_state, 'timm': to_timm}
HEADS = 'heads     the file does not tell their number; --arch or --config does'
KEPT_META = ('cfg', 'epoch', 'iter', 'time', 'mmengine_version')


def convert_file(
    source: str | Path,
    destination: str | Path,
    to: str = 'mirl',
    arch: str | None = None,
    config: str | None = None,
    raw: bool = False,
) -> list[str]:
    """Read a checkpoint of any form and write it in another.

    Args:
        source: the file to read.
        destination: the file to write; safetensors if it ends so, else a torch file.
        to: ``mirl`` (all that fits, names of the full model), ``backbone`` (the encoder alone,
            without prefix) or ``timm`` (encoder and classifier, timm's names).
        arch: name of the arch that the encoder must have.
        config: path of a config whose model the file is held against, in place of ``arch``.
        raw: see :func:`open_checkpoint`.

    Returns:
        The account, line by line.

    Raises:
        FileNotFoundError, ValueError, OSError: the source cannot be read, is of another arch, or
            has no place in the target; the destination cannot be written.
    """
    if to not in TARGETS:
        raise UserError(f'unknown target {to!r}; accepted are {", ".join(TARGETS)}')
    if arch and config:
        raise UserError('give an arch or a config, not both: the config has its arch')
    check_destination(destination)
    if Path(destination).exists() and Path(source).exists() and Path(source).samefile(destination):
        raise UserError(f'{destination} is the source itself')

    file = open_checkpoint(source, raw)
    state, unused = to_ours(file.state)
    encoder = encoder_of(state, file)
    if config:
        (wanted, model_arch), who = config_shapes(config), config
    else:
        model_arch = encoder.named(arch) if arch else encoder
        wanted, who = expected_shapes(state, model_arch), arch or 'a ViT of this arch'
    fit = compare(shapes(state), wanted, who)
    check_same(encoder, model_arch, who)
    if encoder.num_heads is None and model_arch is not None:
        encoder = replace(encoder, num_heads=model_arch.num_heads)

    converted = TARGETS[to]({name: state[name] for name in fit.matched})
    meta = dict(_meta(file, to), source=Path(source).name, arch=encoder.to_meta())
    write_checkpoint(destination, converted, meta, flat=to == 'timm')

    left = [name for name in fit.matched if not _has_a_place(name, to)]
    size = Path(destination).stat().st_size / 1e6
    lines = [
        f'read      {source}: {described(file)}',
        f'arch      {encoder}',
        f'matched   {len(fit.matched)} of the {len(wanted)} of {who}: {by_part(fit.matched)}',
        f'unused    {counted(unused + fit.unused)}',
        f'missing   {counted(fit.missing)}',
        f'resized   when loaded: {summary(fit.resized)}' if fit.resized else '',
        f'left out  {counted(left)}' if left else '',
        f'written   {destination}: {to}, {len(converted)} tensors, {size:.1f} MB',
        f'load with {timm_call(encoder, converted)}' if to == 'timm' else '',
        HEADS if to == 'timm' and encoder.num_heads is None else '',
    ]
    return [line for line in lines if line]


def encoder_of(state: dict[str, Tensor], file: CheckpointFile) -> EncoderArch:
    """What the weights tell, and the heads where the file or its form does.

    Raises:
        ValueError: the weights are not those of the arch stored with them.
    """
    encoder, stored = EncoderArch.of_state(state), EncoderArch.of_meta(file.meta)
    check_same(encoder, stored, 'the arch stored with it')
    if stored is not None:
        return replace(encoder, num_heads=stored.num_heads)
    official = file.form == 'paddle-mirl' and encoder.name
    return encoder.named(encoder.name) if official else encoder


def _meta(file: CheckpointFile, to: str) -> dict:
    """What goes along: the run's config and length, and the classes of a whole model."""
    meta = {key: file.meta[key] for key in KEPT_META if key in file.meta}
    classes = (file.meta.get('dataset_meta') or {}).get('classes')
    if to == 'mirl' and classes is not None:
        meta['dataset_meta'] = dict(classes=list(classes))
    return dict(meta, form=to, mirl_mm_version=__version__)


def _has_a_place(name: str, to: str) -> bool:
    return {
        'mirl': True,
        'backbone': name.startswith(BACKBONE),
        'timm': timm_name(name) is not None,
    }[to]


def expected_shapes(state: Mapping[str, Tensor], arch: EncoderArch) -> Shapes:
    """Shapes of a model of this arch with the parts that the weights have (full-model names).

    Encoder, norms, decoders and classifier are those of the file; their sizes are the arch's. The
    models are built without memory.
    """
    with torch.device('meta'):
        encoder = VisionTransformer(
            arch=dict(
                embed_dims=arch.embed_dims,
                num_layers=arch.num_layers,
                num_heads=arch.num_heads or 1,
                feedforward_channels=arch.feedforward_channels,
            ),
            img_size=arch.img_size or 224,
            patch_size=arch.patch_size,
            in_channels=arch.in_channels,
            final_norm=BACKBONE + 'ln2.weight' not in state or BACKBONE + 'ln1.weight' in state,
            out_type='avg_featmap' if BACKBONE + 'ln2.weight' in state else 'cls_token',
        )
        wanted = {BACKBONE + name: t.shape for name, t in encoder.state_dict().items()}
        if neck := _neck_like(state, arch.embed_dims):
            wanted |= {f'neck.{name}': t.shape for name, t in neck.state_dict().items()}
    for head in ('head.fc', 'head.layers.head'):
        if f'{head}.weight' in state:
            classes = state[f'{head}.weight'].shape[0]
            wanted[f'{head}.weight'] = Size([classes, arch.embed_dims])
            wanted[f'{head}.bias'] = Size([classes])
    return wanted


def _neck_like(state: Mapping[str, Tensor], width: int) -> MIRLNeck | None:
    """MIRLNeck with the decoders that the weights have."""
    found = [re.match(r'neck\.decoders\.(\d+)\.(?:blocks\.(\d+)\.)?', name) for name in state]
    numbers = [match.groups() for match in found if match]
    needed = ('embed.weight', 'blocks.0.ffn.layers.0.0.weight', 'pred.bias')
    embed, hidden, values = (state.get(f'neck.decoders.0.{name}') for name in needed)
    if embed is None or values is None or hidden is None:
        return None
    return MIRLNeck(
        width,
        num_segments=1 + max(int(g) for g, _ in numbers),
        decoder_embed_dim=embed.shape[0],
        decoder_depth=1 + max(int(i) for _, i in numbers if i is not None),
        decoder_num_heads=1,
        mlp_ratio=(hidden.shape[0] + 0.5) / embed.shape[0],  # the neck rounds down
        patch_size=1,
        in_channels=values.shape[0],
    )
