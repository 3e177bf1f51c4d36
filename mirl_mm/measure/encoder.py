"""The encoder of a config with the weights of a checkpoint, of any form."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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
RANDOM = 'random'
"""Given as a checkpoint: the encoder as it is before training (seed 0)."""


def load_encoder(cfg: Config, checkpoint: str) -> VisionTransformer:
    """The backbone of ``cfg.model``, in eval mode on the CPU.

    Config and checkpoint may be of different models (MIRL, MAE, a classifier) with one encoder.
    Positions that a file lacks are the fixed sine-cosine ones, as in the official release.

    Args:
        cfg: a config with a plain ViT that has a cls token as ``model.backbone``.
        checkpoint: a file that :func:`mirl_mm.checkpoint.load_weights` reads, or ``random``.

    Raises:
        FileNotFoundError, ValueError: no such encoder or checkpoint, or one of another arch.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    settings = (cfg.get('model') or {}).get('backbone')
    if settings is None:
        raise UserError('the config has no model.backbone')
    vit = MODELS.build({**settings, 'init_cfg': None})
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        raise UserError(
            'model.backbone must be a plain ViT with a cls token (MIRLViT, MAEViT, '
            f'VisionTransformer), got {type(vit).__name__}'
        )
    vit.eval()  # mmpretrain's returns None
    if checkpoint == RANDOM:
        _initialise(vit)
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


def _initialise(vit: VisionTransformer) -> None:
    """With a seed of its own, and without MMEngine's log line for every parameter."""
    logging.disable(logging.WARNING)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vit.init_weights()
    finally:
        logging.disable(logging.NOTSET)


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
