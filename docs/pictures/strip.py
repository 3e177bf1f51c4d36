"""One picture painted by a model: original, masked, main, residual, sum, under each other's names.

Shapes: the picture is [1, 3, S, S].
"""

import importlib.resources
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from PIL import Image, ImageDraw, ImageFont

from mirl_mm.apps.reconstruct import load_model
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError
from mirl_mm.measure.features import test_pipeline_of
from mirl_mm.models.masking import named_noise
from mirl_mm.pictures.panel import panel_columns

TILE, GAP, FOOTER = 256, 12, 48  # pixels; the README shows five of them in about 860
GREY = '#768390'  # reads on white and on GitHub's dark page
PHOTOGRAPH = 'coffee.png'  # of scikit-image: CC0, by Rachel Michetti


def photograph(name: str = PHOTOGRAPH) -> Path:
    """A file of scikit-image's data."""
    return Path(str(importlib.resources.files('skimage') / 'data' / name))


@torch.no_grad()
def columns_of(config: str, checkpoint: str, picture: Path) -> dict[str, np.ndarray]:
    """What the outermost pair of decoders paints, by label: uint8 [S, S, 3] each."""
    if not picture.is_file():
        raise UserError(f'no picture at {picture}; accepted is an image file')
    cfg = load_config(config)
    model = load_model(cfg, checkpoint)
    pipeline = Compose(test_pipeline_of(cfg, model.backbone.img_size))
    preprocessor = model.data_preprocessor
    imgs = preprocessor(default_collate([pipeline(dict(img_path=str(picture)))]))['inputs']
    noise = named_noise([f'0 {picture.name}'], imgs, model.backbone.patch_size)
    found = panel_columns(imgs, model.reconstruct(imgs, noise))
    shown = dict(
        zip(('original', 'masked', 'main', 'residual', 'sum'), found.values(), strict=False)
    )
    undone = {name: tile * preprocessor.std + preprocessor.mean for name, tile in shown.items()}
    return {
        name: tile[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        for name, tile in undone.items()
    }


def strip(columns: dict[str, np.ndarray]) -> Image.Image:
    """The tiles in a row with their labels below, on no background."""
    width = len(columns) * (TILE + GAP) - GAP
    sheet = Image.new('RGBA', (width, TILE + FOOTER))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    for n, (label, tile) in enumerate(columns.items()):
        x = n * (TILE + GAP)
        big = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.BICUBIC)
        sheet.paste(big, (x, 0))
        pen.text((x + TILE / 2, TILE + FOOTER / 2 + 4), label, GREY, font, anchor='mm')
    return sheet
