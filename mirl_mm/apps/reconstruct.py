"""What a pre-trained model paints into arbitrary pictures."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import MAE, MAEViT

from mirl_mm.checkpoint import load_weights
from mirl_mm.datasets.listing import EXTENSIONS, is_image, list_files
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder
from mirl_mm.measure.features import test_pipeline_of
from mirl_mm.models import MIRL
from mirl_mm.models.fit import summary
from mirl_mm.models.masking import named_noise, num_kept
from mirl_mm.pictures.panel import painted, panel, write_picture

PAGE_ENDINGS = ('.png', '.jpg', '.pdf', '.svg')
PAGE_ROWS = 32


@torch.no_grad()
def reconstruct_pictures(
    config: str,
    checkpoint: str,
    pictures: str,
    out: str = 'reconstructions',
    mask_ratio: float | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Draw the panel of every picture: original, masked, and what is painted.

    Of MIRL, main, residual and sum of every pair. Yields a line on each picture: its errors and its
    panel, or why it was skipped. The config is one of MIRL or of mmpretrain's MAE, whose test
    pipeline resizes and crops; the checkpoint is a whole model in any form. For
    ``pictures`` and ``out`` see :func:`assign_panels`. ``mask_ratio`` None takes the config's;
    ``seed`` decides, with a picture's file name, its mask.
    """
    cfg = load_config(config)
    panels = assign_panels(pictures, out)
    model = load_model(cfg, checkpoint, mask_ratio).to(get_device())
    pipeline = Compose(test_pipeline_of(cfg, model.backbone.img_size))
    preprocessor, drawn = model.data_preprocessor, 0
    for page, paths in panels.items():
        read = {}
        for path in paths:
            try:
                read[path] = pipeline(dict(img_path=str(path)))
            except Exception as error:  # decoders raise whatever they like
                cause = error.__cause__ or error
                yield f'{path}: skipped ({type(cause).__name__}: {cause})'
        if not read:
            continue
        imgs = preprocessor(default_collate(list(read.values())))['inputs']  # [B, 3, H, W]
        noise = named_noise([f'{seed} {p.name}' for p in read], imgs, model.head.patch_size)
        columns, errors = painted(model, imgs, noise)
        write_picture(panel(columns, preprocessor.mean, preprocessor.std, zoom=2), page)
        pairs = getattr(model, 'pair_names', ())
        for path, row in zip(read, errors.tolist(), strict=True):
            each = ', '.join(f'{n} {e:.3f}' for n, e in zip(pairs, row, strict=False))
            yield f'{path}: error {sum(row) / len(row):.3f} {f"({each}) " * bool(each)}-> {page}'
        drawn += len(read)
    if not drawn:
        raise UserError(f'no picture of {pictures} can be read')


def load_model(cfg: Config, checkpoint: str, mask_ratio: float | None = None) -> MIRL | MAE:
    """The config's model with the checkpoint's weights, in eval mode."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    common = dict(data_preprocessor=cfg.get('data_preprocessor'))  # as MMEngine's Runner takes it
    model = MODELS.build(common | dict(cfg.model))
    mirl, backbone = isinstance(model, MIRL), getattr(model, 'backbone', None)
    if not mirl and not (isinstance(model, MAE) and isinstance(backbone, MAEViT)):
        accepted = "accepted are MIRL's, as in configs/mirl, and those of MAE with a plain ViT"
        kind = f'its model is {type(model).__name__} with {type(backbone).__name__}'
        raise UserError(f'{cfg.filename} does not paint: {kind}; {accepted}')
    if mask_ratio is not None:
        height, width = model.backbone.patch_resolution
        num_kept(height * width, mask_ratio)
        model.backbone.mask_ratio = mask_ratio
    fit = load_weights(model, checkpoint)
    # MIRL's positions are there from the start
    if lacking := [name for name in fit.missing if not (mirl and name.endswith('pos_embed'))]:
        needed = "a whole pre-training checkpoint, such as a run's epoch_*.pth"
        lacks = f'it lacks {summary(lacking)}; needed is {needed}, not the encoder alone'
        raise UserError(f'{checkpoint} cannot paint: {lacks}')
    return model.eval()


def find_pictures(pictures: str) -> dict[Path, Path]:
    """An image, or those of a folder in any nesting, and the name of each inside the folder."""
    root = Path(pictures)
    if not root.exists():
        raise FileNotFoundError(f'no image or folder at {root}')
    if root.is_file():
        return {root: Path(root.name)}
    if found := sorted(map(Path, list_files(root, is_image))):
        return {root / name: name for name in found}
    raise UserError(f'no image in {root}; accepted are files ending in {" ".join(EXTENSIONS)}')


def assign_panels(pictures: str, out: str, rows: int = PAGE_ROWS) -> dict[Path, list[Path]]:
    """Which pictures go on which panel, in folders that are made here.

    ``pictures`` is an image file, or a folder of them in any nesting. ``out`` is an image file (see
    PAGE_ENDINGS) for one page of them all, or a folder for a PNG each, in folders like theirs.
    """
    root, out, panels, found = Path(pictures), Path(out), {}, find_pictures(pictures)
    if out.suffix.lower() in PAGE_ENDINGS:
        if len(found) > rows:
            has = f'takes at most {rows} of the {len(found)} pictures in {root}'
            raise UserError(f'{out} is one page and {has}; give --out a folder for a panel each')
        panels = {out: [*found]}
    elif is_image(out.name):
        accepted = f'a folder, or a file ending in {" ".join(PAGE_ENDINGS)}'
        raise UserError(f'--out {out} cannot be written; accepted is {accepted}')
    else:
        for picture, name in found.items():
            panel = out / name.with_suffix('.png')
            if panel in panels:  # dog.png beside dog.jpg
                panel = out / name.with_name(name.name + '.png')
            panels[panel] = [picture]
    for folder in sorted({panel.parent for panel in panels}):
        check_folder(folder)
    return panels
