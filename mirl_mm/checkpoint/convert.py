"""From a checkpoint file of any form to another file, with an account of every name."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmpretrain.models import MAEPretrainDecoder, VisionTransformer
from safetensors.torch import save
from torch import Tensor, nn

from mirl_mm import __version__
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, write_complete, write_json
from mirl_mm.models.archs import BACKBONE, POSITIONS, EncoderArch, check_same, num_positions
from mirl_mm.models.channels import for_channels
from mirl_mm.models.fit import Fit, Shapes, compare, shapes, summary
from mirl_mm.models.neck import MIRLNeck

from . import folders
from .config_text import heads_in
from .loading import config_shapes, naming, our_names
from .names import backbone_state, to_mae, to_timm
from .reading import FORMS, CheckpointFile, class_names, open_checkpoint
from .safety import META_KEY

TARGETS = dict(mirl=dict, backbone=backbone_state, mae=dict, timm=to_timm, hf=to_mae)
CLASSIFIERS = ('mirl', 'timm', 'hf')
NEEDED = dict(timm=("timm's ViT", BACKBONE), hf=("transformers' ViT", BACKBONE))
NEEDED['mae'] = ("mmpretrain's MAE", '')
EPS = "norms     timm's have an eps of 1e-06"
PARTS = dict(backbone='encoder', neck='decoders')
KEPT_META = ('cfg', 'epoch', 'iter', 'time', 'mmengine_version')


def convert_file(
    source: str | Path,
    destination: str | Path,
    to: str = 'mirl',
    arch: str | None = None,
    config: str | None = None,
    raw: bool = False,
    channels: int | None = None,
    licence: str = 'other',
    record: Callable[[Mapping], Mapping[str, str]] | None = None,
) -> list[str]:
    """Read a checkpoint of any form, write it in another, and return the account, line by line.

    ``to`` is ``mirl`` (all that fits), ``backbone`` (the encoder alone, without prefix), ``mae``
    (for mmpretrain's MAE), ``timm`` or ``hf`` (encoder and classifier). The encoder is held against
    the ``arch`` of a name, or all against a ``config``'s model. For ``raw`` and ``channels`` see
    :func:`open_checkpoint` and :func:`for_channels`. ``hf``, and ``timm`` unless it ends in .pth or
    .safetensors, is a folder: its card has the ``licence`` and the rows that ``record`` makes.
    """
    if to not in TARGETS:
        raise UserError(f'unknown target {to!r}; accepted are {", ".join(TARGETS)}')
    if arch and config:
        raise UserError('give an arch or a config, not both: the config has its arch')
    path, source = Path(destination), Path(source)
    if not (folder := folders.wants_folder(path, to)):
        check_destination(path, source)
    file, who = open_checkpoint(source, raw), config or arch or 'a ViT of this arch'
    meta = dict(form=to) | {key: file.meta[key] for key in KEPT_META if key in file.meta}
    if to in CLASSIFIERS and (classes := class_names(file.meta)):
        meta['dataset_meta'] = dict(classes=classes)
    with naming(source):
        state, unused, encoder, fit, wanted = _fitted(file, to, arch, config, who, channels)
        converted = TARGETS[to]({name: state[name] for name in fit.matched})
        meta |= dict(mirl_mm_version=__version__, source=source.name, arch=encoder.to_meta())
        kept = set(map(id, converted.values()))
        if folder:
            own = dict(licence=licence, rows=record(meta) if record else {})
            converted, loading = _write_folder(path, converted, meta, source, own)
            path = path / 'model.safetensors'
        else:
            write_checkpoint(path, converted, meta, to == 'timm')
            loading = _timm_call(encoder, converted) if to == 'timm' else []

    given = map(id, file.state.values())
    alone = num_positions(state) and id(state[BACKBONE + POSITIONS]) not in given
    left = [n for n in fit.matched if id(state[n]) not in kept and not n.startswith(BACKBONE)]
    lines = [
        f'read      {source}: {_described(file)}',
        f'arch      {encoder}',
        f'matched   {len(fit.matched)} of the {len(wanted)} of {who}: {by_part(fit.matched)}',
        f'unused    {counted(unused + fit.unused)}',
        f'missing   {counted(fit.missing)}',
        'positions zeros for the cls token, which has none in the file' if alone else '',
        f'resized   when loaded: {summary(fit.resized)}' if fit.resized else '',
        f'left out  {counted(left)}' if left else '',
        f'written   {path}: {to}, {len(converted)} tensors, {path.stat().st_size / 1e6:.1f} MB',
        *loading,
        EPS if to == 'timm' and encoder.norm_eps not in (None, 1e-6, 1e-5) else '',
    ]
    return [line for line in lines if line]


def _fitted(
    file: CheckpointFile,
    to: str,
    arch: str | None,
    config: str | None,
    who: str,
    channels: int | None,
) -> tuple[dict[str, Tensor], list[str], EncoderArch, Fit, Shapes]:
    """Weights in our names, those of no place, their arch, and what fits of what is wanted."""
    wanted, model_arch = config_shapes(config) if config else ({}, None)
    state, unused, stored = our_names(file, getattr(model_arch, 'positions', 0))
    encoder = _told_arch(file, state, stored)
    if channels is not None:  # decoders are left behind
        unused = unused + [name for name in state if name.startswith('neck.')]
        state = {name: x for name, x in state.items() if not name.startswith('neck.')}
        first = BACKBONE + 'patch_embed.projection.weight'
        state[first] = for_channels(state[first], channels)
        encoder = replace(encoder, in_channels=channels)
    if not config:
        model_arch = encoder.named(arch) if arch else encoder
        wanted = expected_shapes(state, model_arch, to == 'mae')
    fit = compare(shapes(state), wanted, who)
    check_same(encoder, model_arch, who)
    whose, start = NEEDED.get(to, ('', '-'))
    if lost := [name for name in fit.missing if name.startswith(start)]:
        raise UserError(f'{whose} needs {summary(lost)}, which it or {who} lacks')
    if to in ('timm', 'hf') and any(name.startswith('neck.bn.') for name in state):
        raise UserError(f'{whose} has no batch norm before its classifier, as a linear probe has')
    keys = ['num_heads', 'norm_eps'] * (model_arch is not None)
    keys += ['img_size'] * (getattr(model_arch, 'positions', 0) == num_positions(state))
    size = 'img_size' if stored is None else ''  # (of a square, as far as weights tell)
    keys = [key for key in keys if key == size or getattr(encoder, key) is None]
    told = {key: getattr(model_arch, key) for key in keys}
    return state, unused, replace(encoder, **told), fit, wanted


def expected_shapes(state: Mapping[str, Tensor], arch: EncoderArch, mae: bool = False) -> Shapes:
    """Shapes of a model (or MAE) of this arch with the norms and decoders that the weights have."""
    pooled, size = BACKBONE + 'ln2.weight' in state, arch.img_size or 224
    norm = dict(final_norm=not pooled or BACKBONE + 'ln1.weight' in state)
    norm['out_type'] = 'avg_featmap' if pooled else 'cls_token'
    norm |= dict(pre_norm=BACKBONE + 'pre_norm.weight' in state)
    norm['layer_scale_init_value'] = float(arch.layer_scale)
    numbers = dict(arch.to_meta(), num_heads=arch.num_heads or 1)
    with torch.device('meta'):
        vit = VisionTransformer(numbers, size, arch.patch_size, arch.in_channels, **norm)
        encoder = vit.state_dict()
        if arch.num_registers:
            encoder['register_tokens'] = state[BACKBONE + 'register_tokens']
        if arch.img_size is None and num_positions(state):  # of a grid that is not known
            encoder[POSITIONS] = state[BACKBONE + POSITIONS]
        decoders = (_mae_decoder_like if mae else _neck_like)(state, arch.embed_dims)
        parts = {BACKBONE: encoder, 'neck.': decoders}
        for head in ('head.fc.', 'head.layers.head.'):
            if classes := len(state.get(head + 'weight', ())):
                parts[head] = nn.Linear(arch.embed_dims, classes).state_dict()
    return {start + name: x.shape for start, part in parts.items() for name, x in part.items()}


def _told_arch(
    file: CheckpointFile, state: Mapping[str, Tensor], stored: EncoderArch | None
) -> EncoderArch:
    """The size that the weights (in our names) and the meta of a file tell."""
    encoder = EncoderArch.of_state(state)
    check_same(encoder, stored, 'the arch stored with it')
    if file.form == 'paddle-mirl' and encoder.name:
        return encoder.named(encoder.name)
    heads = getattr(stored, 'num_heads', None) or heads_in(str(file.meta.get('cfg', '')))
    size, told = encoder.img_size, getattr(stored, 'positions', 0)
    if told and num_positions(state) in (0, told):  # of another grid, perhaps, than a square one
        size = stored.img_size
    eps = getattr(stored, 'norm_eps', None)
    return replace(encoder, num_heads=heads, img_size=size, norm_eps=eps)


def _neck_like(state: Mapping[str, Tensor], embed_dim: int) -> dict[str, Tensor]:
    """The state of a MIRLNeck with the decoders that the weights have; empty for none."""
    needed = ('embed.weight', 'blocks.0.ffn.layers.0.0.weight', 'pred.bias')
    width, hidden, values = (len(state.get(f'neck.decoders.0.{name}', ())) for name in needed)
    if not (width and hidden and values):
        return {}
    blocks = re.findall(r'(?m)^neck\.decoders\.(\d+)\.blocks\.(\d+)', '\n'.join(state))
    segments, depth = (1 + max(map(int, numbers)) for numbers in zip(*blocks, strict=True))
    decoders = dict(decoder_embed_dim=width, decoder_depth=depth, decoder_num_heads=1)
    sizes = dict(mlp_ratio=(hidden + 0.5) / width, patch_size=1, in_channels=values)  # rounds down
    sizes['context'] = 'neck.decoders.0.blocks.0.cross_attn.q.weight' in state
    return MIRLNeck(embed_dim, segments, **decoders, **sizes).state_dict()


def _mae_decoder_like(state: Mapping[str, Tensor], embed_dim: int) -> dict[str, Tensor]:
    """The state of the decoder of mmpretrain's MAE, as large as that of the weights."""
    needed = ('decoder_embed.weight', 'decoder_blocks.0.ffn.layers.0.0.weight', 'decoder_pred.bias')
    width, hidden, values = (len(state.get(f'neck.{name}', ())) for name in needed)
    if not (width and hidden and values):
        raise UserError("it has no decoder of MAE; accepted for mae is MAE's whole checkpoint")
    blocks = re.findall(r'(?m)^neck\.decoder_blocks\.(\d+)', '\n'.join(state))
    sizes = (embed_dim, width, 1 + max(map(int, blocks)), 1, (hidden + 0.5) / width)
    return MAEPretrainDecoder(num_positions(state) - 1, 1, values, *sizes).state_dict()


def _described(file: CheckpointFile) -> str:
    """What kind of file it is, and what it holds beside the weights."""
    form = FORMS[file.form]
    form += '' if file.place in ('', 'model/', 'state_dict/') else f' at {file.place}'
    ema = '' if file.weights == 'plain' else f', {file.weights} weights of a run with EMA'
    beside = f', beside them {", ".join(file.beside)}' if file.beside else ''
    return f'{form}, {file.layout} layout, {len(file.state)} tensors{ema}{beside}'


def by_part(names: Collection[str]) -> str:
    """How many tensors of each part of a model: encoder 148, decoders 192."""
    counts = Counter(PARTS.get(first := name.split('.')[0], first) for name in names)
    return ', '.join(f'{part} {number}' for part, number in counts.items())


def counted(names: Collection[str]) -> str:
    """How many, and which."""
    return f'{len(names)}: {summary(list(names))}' if names else 'none'


def _timm_call(arch: EncoderArch, converted: dict[str, Tensor]) -> list[str]:
    """The call of ``timm.create_model`` whose model takes the weights, and what it still needs."""
    architecture, arguments = folders.timm_arguments(arch, converted)
    words = (f'{key}={"?" if value is None else repr(value)}' for key, value in arguments.items())
    call = f'load with timm.create_model({architecture!r}, {", ".join(words)})'
    heads = 'heads     the file does not tell their number; --arch or --config does'
    size = 'img_size  the positions are of no square: give height and width'
    return [call, *([] if arch.num_heads else [heads]), *([] if arch.img_size else [size])]


def _write_folder(
    path: Path, state: dict, meta: dict, source: Path, own: dict
) -> tuple[dict[str, Tensor], list[str]]:
    """A folder for timm or transformers, whole or not at all: its tensors, how to load them."""
    arch = EncoderArch.of_meta(meta)
    if unknown := [key for key in ('num_heads', 'img_size') if getattr(arch, key) is None]:
        raise UserError(f'it does not tell its {" and ".join(unknown)}; --config does')
    beside = source if source.is_dir() else source.parent
    pixels = folders.pixels_of(str(meta.get('cfg', '')), beside, arch.in_channels)
    facts = own | dict(zip(('mean', 'std', 'origin'), pixels, strict=True))
    classes, number = class_names(meta), len(state.get('head.weight', ()))
    facts |= dict(meta, arch=arch, number=number, classes=classes if len(classes) == number else [])
    make = folders.timm_folder if meta['form'] == 'timm' else folders.hub_folder
    files, state, call = make(facts, state)
    with TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}.') as outer:
        (part := Path(outer) / 'whole').mkdir()
        write_checkpoint(part / 'model.safetensors', state, meta)
        for name, content in files.items():
            write_json(part / name, content)
        card = folders.card(call.format(path.absolute().name), facts)
        write_complete(part / 'README.md', card.encode())
        os.replace(part, path)
    pixels = 'pixels    from 0 to 1, mean {mean}, std {std}: {origin}'.format(**facts)
    return state, [pixels, f'load with {call.format(path)}']


def write_checkpoint(path: str | Path, state: dict, meta: dict, flat: bool = False) -> None:
    """Write weights as :func:`mirl_mm.files.write_complete`; UserError or OSError: it cannot be.

    Safetensors if the path ends so, else a torch file that is safe to load (``flat``: without
    ``meta``, as timm's). The tensors are written contiguous and apart; ``meta`` is plain data.
    """
    path = Path(path)
    check_destination(path)
    state = {name: x.detach().cpu().contiguous() for name, x in state.items()}
    for name, x in state.items():
        if x.untyped_storage().nbytes() != x.nbytes:  # a view would drag its whole along
            state[name] = x.clone()
    try:
        if path.suffix == '.safetensors':
            # (its save_file would give other users no right to read)
            content = save(state, {'format': 'pt', META_KEY: json.dumps(meta)})
        else:
            torch.save(state if flat else dict(state_dict=state, meta=meta), file := BytesIO())
            content = file.getvalue()
        write_complete(path, content)
    except (OSError, RuntimeError) as error:
        raise OSError(f'cannot write {path}: {error}') from error


def check_destination(path: str | Path, source: str | Path | None = None) -> None:
    """Find out early that a file cannot be written, or is the source of what it would hold."""
    path = Path(path)
    if path.suffix in ('.pd', '.pdparams', '.pdopt'):
        accepted = 'a name in .safetensors, or in anything else (.pth) for a torch file'
        raise UserError(f'{path}: Paddle files are read, not written; accepted is {accepted}')
    if path.is_dir() or not path.parent.is_dir():
        why = 'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'
        raise OSError(f'cannot write {path}: {why}')
    check_folder(path.parent, 'destination')
    if source and path.exists() and Path(source).exists() and path.samefile(source):
        raise UserError(f'{path} is the source itself')
