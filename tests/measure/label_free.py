"""Small encoders and images for the probes that take no labels."""

from pathlib import Path

from mmengine.config import Config

from mirl_mm.datasets import UnlabelledImages
from mirl_mm.measure.depth import Probing
from mirl_mm.measure.features import Loading, load_encoder, preprocessor_of
from tests.class_folders import MAE, MIRL, write_checkpoint, write_classes, write_config

METHODS = dict(
    MIRLViT=MIRL,
    MAEViT=MAE,
    VisionTransformer=MAE | dict(BACKBONE="'VisionTransformer'"),
)


def encoder(folder: Path, kind: str = 'MIRLViT'):
    """4 blocks, 16 wide, with the same weights for all kinds; its config beside it."""
    checkpoint = folder / 'mae.pth'
    if not checkpoint.is_file():
        write_checkpoint(checkpoint, write_config(folder / 'mae.py', MAE))
    cfg = Config.fromfile(write_config(folder / f'{kind}.py', METHODS[kind]))
    return load_encoder(cfg, str(checkpoint)), cfg


def probing(cfg: Config, blocks=(1, 3), batch_size=4, amp=False) -> Probing:
    loading = Loading(batch_size, 0, amp)
    return Probing(list(blocks), ['avg'], cfg.test_pipeline, preprocessor_of(cfg), loading)


def images(folder: Path, how: Probing, count: int = 4, seed: int = 0) -> UnlabelledImages:
    """3 * count noisy ones, in folders of one colour each."""
    if not folder.is_dir():
        write_classes(folder, count=count, seed=seed)
    settings = dict(pipeline=how.pipeline, serialize_data=False)  # which takes a while
    return UnlabelledImages(data_root=str(folder), **settings)
