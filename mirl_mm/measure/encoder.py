"""The encoder of a config with the weights of a checkpoint, of any form."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import VisionTransformer
from torch import nn

from mirl_mm.checkpoint import load_weights
from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE
from mirl_mm.models.fit import summary
from mirl_mm.models.masking import sincos_positions

POSITIONS = BACKBONE + 'pos_embed'
RANDOM = 'random'  # given as a checkpoint: the encoder as it is before training (seed 0)


def load_encoder(cfg: Config, checkpoint: str) -> VisionTransformer:
    """The backbone of ``cfg.model``, a plain ViT with a cls token, in eval mode on the CPU.

    The checkpoint is a file for :func:`mirl_mm.checkpoint.load_weights` or ``random``; it may be of
    another model (MIRL, MAE, a classifier) with this encoder. Positions that it lacks are the fixed
    sine-cosine ones, as in the official release.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    settings = (cfg.get('model') or {}).get('backbone')
    if settings is None:
        raise UserError('the config has no model.backbone')
    vit = MODELS.build({**settings, 'init_cfg': None})
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        wanted = 'a plain ViT with a cls token (MIRLViT, MAEViT, VisionTransformer)'
        raise UserError(f'model.backbone must be {wanted}, got {type(vit).__name__}')
    vit.eval()  # mmpretrain's returns None
    if checkpoint == RANDOM:
        with torch.random.fork_rng(), ExitStack() as end:
            logging.disable(logging.WARNING)  # MMEngine's log line for every parameter
            end.callback(logging.disable, logging.NOTSET)
            torch.manual_seed(0)
            vit.init_weights()
        return vit
    fit = load_weights(vit, checkpoint)
    missing = [name for name in fit.missing if name != POSITIONS]
    unused = [name for name in fit.unused if name.startswith(BACKBONE)]
    if missing or unused:
        print_log(
            f"{checkpoint} is of an encoder with other norms than the config's: "
            f'{summary(missing)} stay as before training, {summary(unused)} go unused. The config '
            'that it was trained with gives the features that it was trained for',
            level=logging.WARNING,
        )
    if POSITIONS in fit.missing:
        with torch.no_grad():
            vit.pos_embed.copy_(sincos_positions(vit.embed_dims, tuple(vit.patch_resolution), True))
    return vit


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
