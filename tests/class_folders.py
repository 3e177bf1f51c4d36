"""Class folders of small images that differ in colour, and encoders small enough for tests."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

COLOURS = dict(blue=(40, 60, 220), green=(30, 200, 60), red=(230, 40, 30), grey=(128, 128, 128))
ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
CONFIG = f"""
custom_imports = dict(imports=['mirl_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(16, 16)),
    dict(type='PackInputs'),
]
model = dict(
    type='KIND',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True
    ),
    backbone=dict(type=BACKBONE, arch={ARCH}, img_size=16, patch_size=4),
    neck=NECK,
    head=HEAD,
)
"""
MIRL = dict(
    KIND='MIRL',
    BACKBONE="'MIRLViT', num_segments=4",
    NECK="dict(type='MIRLNeck', embed_dim=16, num_segments=4, decoder_embed_dim=8, "
    'decoder_depth=1, decoder_num_heads=1, patch_size=4)',
    HEAD="dict(type='MIRLHead', patch_size=4)",
)
MAE = dict(
    KIND='MAE',
    BACKBONE="'MAEViT'",
    NECK="dict(type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=16, "
    'decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=1)',
    HEAD="dict(type='MAEPretrainHead', patch_size=4, norm_pix=True, "
    "loss=dict(type='PixelReconstructionLoss', criterion='L2'))",
)


def write_classes(root: Path, names=('blue', 'green', 'red'), count: int = 4, seed: int = 0) -> str:
    """``count`` noisy images of 20 px in each of the folders; returns the root."""
    rng = np.random.default_rng(seed)
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            noise = rng.normal(0, 12, (20, 20, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f'{i}.png')
    return str(root)


def write_config(path: Path, method: dict[str, str], **replace: str) -> str:
    """The config of a pre-training model on the 4-block encoder."""
    text = CONFIG
    for name, value in method.items():
        text = text.replace(name, value)
    for name, value in replace.items():
        text = text.replace(name, value)
    path.write_text(text)
    return str(path)


def write_checkpoint(path: Path, config: str, seed: int = 0) -> str:
    """A checkpoint as MMEngine writes it, of the config's freshly initialised model."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)), path)
    return str(path)
