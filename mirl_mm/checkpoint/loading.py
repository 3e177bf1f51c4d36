"""Weights of any form into a model, and what a config's model would take."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from mirl_mm.errors import CheckpointError, UserError
from mirl_mm.files import find_config
from mirl_mm.models.archs import BACKBONE, POSITIONS, EncoderArch, check_same, expect
from mirl_mm.models.fit import Fit, Shapes, compare, difference, is_same, shapes, summary
from mirl_mm.models.segments import strip_wrappers

from .names import to_ours
from .reading import FORMS, CheckpointFile, check_finite, open_checkpoint


def load_weights(model: nn.Module, path: str | Path) -> Fit:
    """Load a checkpoint of any form into a model with a ``backbone``, or into an encoder.

    What did not match (full-model names) is told: a part of the model may stay as it is.
    """
    file = open_checkpoint(path)
    who, backbone = f'this {type(model).__name__}', getattr(model, 'backbone', model)
    prefix = BACKBONE if backbone is model else ''
    own = {prefix + n: t.shape for n, t in model.state_dict().items()}
    with naming(path):
        state, unused, stored = our_names(file, own.get(BACKBONE + POSITIONS, (1, 0))[1])
        fit = compare(shapes(state), own, who)
        expect(backbone, stored, who)
        check_pairing(model, file.meta)
        model.load_state_dict({n.removeprefix(prefix): state[n] for n in fit.matched}, strict=False)
    fit.unused += unused
    return fit


def our_names(file: CheckpointFile, positions: int) -> tuple[dict, list, EncoderArch | None]:
    """Weights under full-model names, the names without a place, and the arch that is stored.

    That is the one of the meta, or what a config.json tells, which has to agree with the weights.
    ``positions`` of a model, or 0: see :func:`to_ours`.
    """
    stored, told = EncoderArch.of_meta(file.meta), file.told
    if {'img_size', 'patch_size'} <= told.keys():
        positions = math.prod(side // told['patch_size'] for side in told['img_size']) + 1
    state, unused = to_ours(file.state, getattr(stored, 'positions', 0) or positions)
    if told and not stored:
        stored = replace(own := EncoderArch.of_state(state), **told)
        if (heads := stored.num_heads) and stored.embed_dims % heads:
            fault = f'{heads} heads in the config.json beside it do not divide'
            raise CheckpointError(f'{fault} a width of {stored.embed_dims}')
        keys = [n for n in told if n != 'img_size' or own.positions != stored.positions]
        check_same(own, stored, 'the config.json beside it', keys)
    return state, unused, stored


def check_pairing(model: nn.Module, meta: Mapping) -> None:
    """Refuse decoders that learnt in other pairs: their weights fit, and paint something else."""
    here, run = getattr(getattr(model, 'head', None), 'pairing', None), meta.get('run')
    there = run.get('pairing') if isinstance(run, Mapping) else None
    if None not in (here, there) and here != there:
        how = f'set model.head.pairing={there}'
        raise CheckpointError(f'its decoders learnt with pairing={there!r}, not {here!r}: {how}')


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put a file's name before what an error inside the block says of its weights."""
    try:
        yield
    except UserError as error:
        raise error if str(path) in str(error) else type(error)(f'{path}: {error}') from error


def check_whole(model: nn.Module, given: dict[str, Tensor], path: str | Path) -> None:
    """CheckpointError if weights of a file are not all of a model: missing or of other sizes.

    For files that MMEngine loads: it logs what does not fit, leaves it random, and goes on.
    """
    there = shapes(given)
    found = {short: there[name] for name, short in strip_wrappers(there).items()}
    norms = re.escape(BACKBONE) + r'ln[12]\.'  # without one, features are others
    if reason := difference(found, _filled(model), 'this model', known=norms, resized=True):
        accepted = 'Accepted is what a training run of this config wrote (after --data, of the one '
        accepted += 'in its work dir); an encoder alone goes to'
        fault = f'{path} does not fit this {type(model).__name__}: {reason}'
        raise CheckpointError(f'{fault}. {accepted} model.backbone.init_cfg')


def part_taken(model: nn.Module, given: dict[str, Tensor], path: str | Path) -> str:
    """What a start from a file's weights leaves as before training, in words; '' for nothing.

    CheckpointError where nothing at all would be taken: MMEngine goes on with random weights.
    """
    found, wanted, who = shapes(given), _filled(model), f'this {type(model).__name__}'
    matched = names_taken(model, given)
    if not matched:
        names = f'its names are {summary([*found])}, and needed are {summary([*wanted])}'
        raise CheckpointError(f'{path} holds no weight of {who}, name and shape: {names}')
    left = [name for name in wanted if name not in matched]
    unused = [name for name in found if name not in wanted]
    start = f'{len(matched)} of the {len(wanted)} tensors of {who} start from {path}'
    rest = f'as before training stay {summary(left)}; the file has unused {summary(unused)}'
    return f'{start}; {rest}' if left else ''


def names_taken(model: nn.Module, given: dict[str, Tensor]) -> list[str]:
    """A model's tensors that MMEngine takes from a file's weights."""
    found, wanted = shapes(given), _filled(model)
    return [n for n in wanted if n in found and is_same(n, found[n], wanted[n], resized=True)]


def names_initialised(model: nn.Module) -> dict[str, str]:
    """The parameters that an ``init_cfg`` has read from a file, and the file."""
    found = {}
    for place, module in model.named_modules():
        if start := getattr(module, 'started_from', None):
            names = {name for name, _ in module.named_parameters()} - set(start[1])
            found |= {f'{place}.{name}'.lstrip('.'): start[0] for name in names}
    return found


def _filled(model: nn.Module) -> Shapes:
    """The shapes of what a file has to fill (old ones lack the counters of batch norms)."""
    return {n: x.shape for n, x in model.state_dict().items() if 'num_batches_tracked' not in n}


def check_start(path: str, prefix: str | None, key: str) -> None:
    """UserError if MMEngine would find no plain ViT in a local file, under a prefix of its names.

    It takes names as they are: for files of others, the converter's command is told. ``key`` is the
    setting that names the file.
    """
    if not os.path.isfile(os.path.expanduser(path)):
        return
    start, names, state = f'{(prefix or "").rstrip(".")}.'.lstrip('.'), (), {}
    with suppress(CheckpointError, AttributeError):  # what it is, is said below
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
        clean = strip_wrappers(shapes(state := content.get('state_dict', content)))
        names = clean.values() if key == 'load_from' else clean
    if any(name.startswith(f'{start}layers.0.') for name in names):
        return check_finite(state, path)
    file = open_checkpoint(path)
    with naming(path):
        to_ours(file.state)  # raises, and says why, for what no converter makes a ViT of
    has = f'it has {FORMS[file.form]} ({summary([*file.state][:3])}, ...), and not {start}layers.*'
    convert = f'python tools/convert_checkpoint.py {path} NEW.pth'
    fix = f'convert it: {convert} --to {"mirl" if start else "backbone"}'
    raise CheckpointError(f'{key}: nothing of {path} would be loaded: {has}; {fix}')


def check_stored_arch(path: str | Path, encoder: nn.Module) -> None:
    """CheckpointError if a local file has NaN weights, or stores another arch (heads, above all).

    Reads as MMEngine's own ``Pretrained`` does; the arch is that of plain ViTs alone.
    """
    if not os.path.isfile(os.path.expanduser(path)):
        return
    content = CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    if not isinstance(content, dict):
        return
    check_finite(content.get('state_dict', content), path)
    if isinstance(encoder, VisionTransformer) and isinstance(content.get('meta'), dict):
        expect(encoder, EncoderArch.of_meta(content['meta']), f'this {type(encoder).__name__}')


def hold_pretrained_to_its_arch() -> None:
    """Make MMEngine's ``init_cfg=dict(type='Pretrained')``, which sees shapes alone, see heads.

    The module keeps the file and the names that it lacked as ``started_from``.
    """
    initialize = PretrainedInit.__call__

    @wraps(initialize)
    def checked(self: PretrainedInit, module: nn.Module) -> None:
        with naming(self.checkpoint):
            check_stored_arch(self.checkpoint, module)
            missing = []
            hook = module.register_load_state_dict_post_hook(
                lambda _, keys: missing.extend(keys.missing_keys)
            )
            initialize(self, module)
            hook.remove()
            module.started_from = self.checkpoint, missing

    PretrainedInit.__call__ = checked


def config_shapes(path: str) -> tuple[Shapes, EncoderArch | None]:
    """Shapes of a config's model, and the size of its encoder if it is a ViT; takes no memory."""
    cfg = Config.fromfile(find_config(path))
    if 'model' not in cfg:
        raise UserError(f'{path} has no model')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    return shapes(model.state_dict()), EncoderArch.of_module(getattr(model, 'backbone', model))
