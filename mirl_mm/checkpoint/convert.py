"""From a checkpoint file of any form to another file, with an account of every name."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmpretrain.models import VisionTransformer
from safetensors.torch import save_file
from torch import Size, Tensor

from mirl_mm import __version__
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, complete_file
from mirl_mm.models.archs import BACKBONE, EncoderArch, check_same
from mirl_mm.models.fit import Shapes, compare, shapes, summary
from mirl_mm.models.neck import MIRLNeck

from .loading import config_shapes
from .names import backbone_state, timm_name, to_ours, to_timm
from .reading import CheckpointFile, open_checkpoint
from .safety import META_KEY

TARGETS = {'mirl': dict, 'backbone': backbone_state, 'timm': to_timm}
FORMS = {'paddle-mirl': 'official MIRL', 'mae': 'names of MAE or timm'}
PARTS = dict(backbone='encoder', neck='decoders')
HEADS = 'heads     the file does not tell their number; --arch or --config does'
KEPT_META = ('cfg', 'epoch', 'iter', 'time', 'mmengine_version')
PADDLE_ENDINGS = ('.pd', '.pdparams', '.pdopt')


def convert_file(
    source: str | Path,
    destination: str | Path,
    to: str = 'mirl',
    arch: str | None = None,
    config: str | None = None,
    raw: bool = False,
) -> list[str]:
    """Read a checkpoint of any form, write it in another, and return the account, line by line.

    Args:
        source, raw: as for :func:`open_checkpoint`.
        destination: the file to write; safetensors if it ends so, else a torch file.
        to: ``mirl`` (all that fits, names of the full model), ``backbone`` (the encoder alone,
            without prefix) or ``timm`` (encoder and classifier, timm's names).
        arch: name of the arch that the encoder must have.
        config: path of a config whose model the file is held against, in place of ``arch``.
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

    has_place = dict(mirl=bool, backbone=lambda name: name.startswith(BACKBONE), timm=timm_name)[to]
    left = [name for name in fit.matched if not has_place(name)]
    size = Path(destination).stat().st_size / 1e6
    lines = [
        f'read      {source}: {_described(file)}',
        f'arch      {encoder}',
        f'matched   {len(fit.matched)} of the {len(wanted)} of {who}: {by_part(fit.matched)}',
        f'unused    {counted(unused + fit.unused)}',
        f'missing   {counted(fit.missing)}',
        f'resized   when loaded: {summary(fit.resized)}' if fit.resized else '',
        f'left out  {counted(left)}' if left else '',
        f'written   {destination}: {to}, {len(converted)} tensors, {size:.1f} MB',
        f'load with {_timm_call(encoder, converted)}' if to == 'timm' else '',
        HEADS if to == 'timm' and encoder.num_heads is None else '',
    ]
    return [line for line in lines if line]


def encoder_of(state: dict[str, Tensor], file: CheckpointFile) -> EncoderArch:
    """What the weights tell, and the heads where the file or its form does."""
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


def expected_shapes(state: Mapping[str, Tensor], arch: EncoderArch) -> Shapes:
    """Shapes of a model of this arch with the parts (norms, decoders) that the weights have."""
    pooled = BACKBONE + 'ln2.weight' in state
    with torch.device('meta'):
        encoder = VisionTransformer(
            arch=dict(arch.to_meta(), num_heads=arch.num_heads or 1),
            img_size=arch.img_size or 224,
            patch_size=arch.patch_size,
            in_channels=arch.in_channels,
            final_norm=not pooled or BACKBONE + 'ln1.weight' in state,
            out_type='avg_featmap' if pooled else 'cls_token',
        )
        wanted = {BACKBONE + name: t.shape for name, t in encoder.state_dict().items()}
        if neck := _neck_like(state, arch.embed_dims):
            wanted |= {f'neck.{name}': t.shape for name, t in neck.state_dict().items()}
    for head in ('head.fc', 'head.layers.head'):
        if classes := len(state.get(f'{head}.weight', ())):
            sizes = dict(weight=Size([classes, arch.embed_dims]), bias=Size([classes]))
            wanted |= {f'{head}.{kind}': size for kind, size in sizes.items()}
    return wanted


def _neck_like(state: Mapping[str, Tensor], embed_dim: int) -> MIRLNeck | None:
    """MIRLNeck with the decoders that the weights have."""
    needed = ('embed.weight', 'blocks.0.ffn.layers.0.0.weight', 'pred.bias')
    width, hidden, values = (len(state.get(f'neck.decoders.0.{name}', ())) for name in needed)
    if not (width and hidden and values):
        return None
    blocks = [re.match(r'neck\.decoders\.(\d+)\.blocks\.(\d+)', name) for name in state]
    return MIRLNeck(
        embed_dim,
        num_segments=1 + max(int(block[1]) for block in blocks if block),
        decoder_embed_dim=width,
        decoder_depth=1 + max(int(block[2]) for block in blocks if block),
        decoder_num_heads=1,
        mlp_ratio=(hidden + 0.5) / width,  # the neck rounds down
        patch_size=1,
        in_channels=values,
    )


def _described(file: CheckpointFile) -> str:
    """What kind of file it is, and what it holds beside the weights."""
    form = FORMS.get(file.form, 'names of mirl_mm or mmpretrain')
    parts = [form, f'{file.layout} layout', f'{len(file.state)} tensors']
    if file.weights != 'plain':
        parts.append(f'{file.weights} weights of a run with EMA')
    if file.beside:
        parts.append(f'beside them {", ".join(file.beside)}')
    return ', '.join(parts)


def by_part(names: Collection[str]) -> str:
    """How many tensors of each part of a model: encoder 148, decoders 192."""
    counts = Counter(PARTS.get(first := name.split('.')[0], first) for name in names)
    return ', '.join(f'{part} {number}' for part, number in counts.items())


def counted(names: Collection[str]) -> str:
    """How many, and which."""
    return f'{len(names)}: {summary(list(names))}' if names else 'none'


def _timm_call(arch: EncoderArch, converted: dict[str, Tensor]) -> str:
    """The call of ``timm.create_model`` whose model takes the weights, all of them."""
    return (
        "timm.create_model('vit_base_patch16_224', "
        f'img_size={(arch.img_size or [224])[0]}, patch_size={arch.patch_size}, '
        f'in_chans={arch.in_channels}, embed_dim={arch.embed_dims}, depth={arch.num_layers}, '
        f'num_heads={arch.num_heads or "?"}, '
        f'mlp_ratio={arch.feedforward_channels / arch.embed_dims:g}, '
        f'num_classes={len(converted.get("head.weight", ()))}, '
        f"global_pool='{'avg' if 'fc_norm.weight' in converted else 'token'}')"
    )


def write_checkpoint(
    path: str | Path, state: Mapping[str, Tensor], meta: dict, flat: bool = False
) -> None:
    """Write weights as a whole or not at all; OSError or ValueError says why it cannot be.

    Args:
        path: safetensors if it ends so, else a torch file that is safe to load.
        state: tensors by name; written contiguous, on the CPU, without shared memory.
        meta: plain data (numbers, text, lists, dicts).
        flat: in a torch file, the dict of tensors alone (as timm's), without meta.
    """
    path = Path(path)
    check_destination(path)
    state = {name: _own(tensor) for name, tensor in state.items()}
    try:
        with complete_file(path) as part:
            if path.suffix == '.safetensors':
                save_file(state, part, metadata={'format': 'pt', META_KEY: json.dumps(meta)})
            else:
                with part.open('wb') as file:
                    torch.save(state if flat else dict(state_dict=state, meta=meta), file)
    except (OSError, RuntimeError) as error:
        raise OSError(f'cannot write {path}: {error}') from error


def check_destination(path: str | Path) -> None:
    """Find out early that a file cannot be written."""
    path = Path(path)
    if path.suffix in PADDLE_ENDINGS:
        raise UserError(
            f'{path}: Paddle files are read, not written; end it in .safetensors for '
            'safetensors, in anything else (.pth) for a torch file'
        )
    if path.is_dir() or not path.parent.is_dir():
        why = 'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'
        raise OSError(f'cannot write {path}: {why}')
    check_folder(path.parent, 'destination')


def _own(tensor: Tensor) -> Tensor:
    """The same values in memory of their own, so that a view does not drag its whole along."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() == whole else tensor.clone()
