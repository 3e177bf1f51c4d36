"""Weights of any form into a model, and what a config's model would take."""

import os
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
from mirl_mm.models.archs import BACKBONE, EncoderArch, check_same
from mirl_mm.models.fit import Fit, Shapes, compare, difference, shapes
from mirl_mm.models.segments import strip_wrappers

from .names import to_ours
from .reading import open_checkpoint


def load_weights(model: nn.Module, path: str | Path) -> Fit:
    """Load a checkpoint of any form into a model with a ``backbone``, or into an encoder.

    What did not match (full-model names) is told: a part of the model may stay as it is.
    """
    file = open_checkpoint(path)
    state, unused = to_ours(file.state)
    who, backbone = f'this {type(model).__name__}', getattr(model, 'backbone', model)
    prefix = BACKBONE if backbone is model else ''
    fit = compare(shapes(state), {prefix + n: t.shape for n, t in model.state_dict().items()}, who)
    check_same(EncoderArch.of_meta(file.meta), EncoderArch.of_module(backbone), who)
    model.load_state_dict({n.removeprefix(prefix): state[n] for n in fit.matched}, strict=False)
    fit.unused += unused
    return fit


def check_whole(model: nn.Module, given: dict[str, Tensor], path: str | Path) -> None:
    """CheckpointError if weights of a file are not all of a model: missing or of other sizes.

    For files that MMEngine loads: it logs what does not fit, leaves it random, and goes on.
    """
    there = shapes(given)
    found = {short: there[name] for name, short in strip_wrappers(there).items()}
    # (old files lack the counters of batch norms)
    wanted = {n: x.shape for n, x in model.state_dict().items() if 'num_batches_tracked' not in n}
    if reason := difference(found, wanted, 'this model', known=None, resized=True):
        accepted = 'Accepted is what a training run of this config wrote; an encoder alone goes to'
        fault = f'{path} does not fit this {type(model).__name__}: {reason}'
        raise CheckpointError(f'{fault}. {accepted} model.backbone.init_cfg')


def check_stored_arch(path: str | Path, encoder: nn.Module) -> None:
    """CheckpointError if a local file stores an arch (its heads, above all) that is another one.

    Reads as MMEngine's own ``Pretrained`` does; other encoders than plain ViTs are left alone.
    """
    if isinstance(encoder, VisionTransformer) and os.path.isfile(os.path.expanduser(path)):
        content = CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
        meta = content.get('meta') if isinstance(content, dict) else None
        stored = EncoderArch.of_meta(meta) if isinstance(meta, dict) else None
        check_same(stored, EncoderArch.of_module(encoder), f'this {type(encoder).__name__}')


def hold_pretrained_to_its_arch() -> None:
    """Make MMEngine's ``init_cfg=dict(type='Pretrained')``, which sees shapes alone, see heads."""
    initialize = PretrainedInit.__call__

    @wraps(initialize)
    def checked(self: PretrainedInit, module: nn.Module) -> None:
        check_stored_arch(self.checkpoint, module)
        initialize(self, module)

    PretrainedInit.__call__ = checked


def config_shapes(path: str) -> tuple[Shapes, EncoderArch | None]:
    """Shapes of a config's model, and the size of its encoder if it is a ViT; takes no memory."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}')
    cfg = Config.fromfile(path)
    if 'model' not in cfg:
        raise UserError(f'{path} has no model')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    return shapes(model.state_dict()), EncoderArch.of_module(getattr(model, 'backbone', model))
