"""What tools/visualize.py does: features behind chosen blocks, as pictures."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmcv import impad
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS
from torch import Tensor

from mirl_mm.apps.depth import checkpoint_labels
from mirl_mm.apps.reconstruct import assign_panels
from mirl_mm.datasets.decode import resized
from mirl_mm.errors import UserError
from mirl_mm.measure.features import load_encoder, patch_side, preprocessor_of, test_pipeline_of
from mirl_mm.pictures.features import Patch, feature_maps, framed, grid_of, segment_ends
from mirl_mm.pictures.panel import panel, seen, write_picture


def visualize_pictures(
    cfg: Config,
    checkpoints: Sequence[str],
    pictures: str,
    out: str = 'visualized',
    what: Sequence[str] = ('pca',),
    blocks: Sequence[int] | None = None,
    patch: Sequence[str] | None = None,
    heads: bool = False,
    labels: Sequence[str] | None = None,
    size: int | None = None,
) -> Iterator[str]:
    """Draw a strip for every picture: itself, then a column a block; a row a ``what`` and encoder.

    Yields a line on each picture: its patches and its strip, or why it was skipped. The arguments
    are as ``tools/visualize.py --help`` tells them, those of a page as of :func:`assign_panels`.
    """
    if heads and 'attention' not in what:
        raise UserError(f'--heads is for attention; --what is {" ".join(what)}')
    if patch and {*what} == {'pca'}:
        raise UserError('--patch is for attention and similarity; --what is pca')
    labels = checkpoint_labels(checkpoints, labels)
    encoders = [load_encoder(cfg, path).to(get_device()) for path in checkpoints]
    vit, preprocessor, drawn = encoders[0], preprocessor_of(cfg).to(get_device()), False
    loader, side = test_pipeline_of(cfg, vit.img_size)[0], patch_side(vit)
    ends = [end + 1 for end in segment_ends(vit)] if blocks is None else sorted({*blocks})
    if absent := [end for end in ends if not 1 <= end <= vit.num_layers]:
        raise UserError(f'--blocks go from 1 to the depth, {vit.num_layers}; got {absent[0]}')
    if (short := min(vit.img_size) if size is None else size) < side:
        raise UserError(f'--size must be at least a patch of {side} pixels, got {short}')
    load, blocks = TRANSFORMS.build(loader), [end - 1 for end in ends]
    rows = [*product(what, zip(labels, encoders, strict=True))]
    for page, paths in assign_panels(pictures, out).items():
        strips = []
        for path in paths:
            try:
                image = load(dict(img_path=str(path)))['img']  # [H, W, C]
            except Exception as error:  # decoders raise whatever they like
                cause = error.__cause__ or error
                yield f'{path}: skipped ({type(cause).__name__}: {cause})'
                continue
            imgs = preprocessor(dict(inputs=whole_patches(image, short, side)[None]))['inputs']
            grid = grid_of(vit, imgs)
            asked = chosen_patch(patch, grid, path) if {*what} - {'pca'} else None
            image = framed(seen(imgs, preprocessor.mean, preprocessor.std).cpu(), grid, asked)
            maps = {}
            for kind, (label, encoder) in rows:
                name = kind if len(labels) == 1 else f'{label}\n{kind}'
                maps[name] = feature_maps(encoder, imgs, kind, blocks, asked, heads)
            strips.append(strip(image, maps, blocks))
            yield f'{path}: {grid[0]} x {grid[1]} patches -> {page}'
        if strips:
            width, white, drawn = max(each.shape[1] for each in strips), (255, 255, 255), True
            padded = [impad(each, shape=(len(each), width), pad_val=white) for each in strips]
            write_picture(np.concatenate(padded), page)
    if not drawn:
        raise UserError(f'no picture of {pictures} can be read')


def strip(image: Tensor, maps: Mapping[str, Tensor], blocks: Sequence[int]) -> np.ndarray:
    """The image [1, 3, H, W] and its maps [K, M, 3, H, W] by name: M rows each, K columns."""
    names = []
    for name, found in maps.items():
        heads = range(1, found.shape[1] + 1)
        names += [f'{name}\nhead {n}' if len(heads) > 1 else name for n in heads]
    columns = {'image': image.expand(len(names), -1, -1, -1)}
    for block, each in zip(blocks, torch.cat([*maps.values()], dim=1), strict=True):
        columns[f'block {block + 1}'] = each
    return panel(columns, zoom=2, rows=names)


def chosen_patch(patch: Sequence[str] | None, grid: tuple[int, int], path: Path) -> Patch:
    """The user's patch, (row, column) from 0; None for cls. Without one, it is the middle."""
    if patch is None:
        return grid[0] // 2, grid[1] // 2
    if [*patch] == ['cls']:
        return None
    row, column = map(int, patch) if [*map(str.isdecimal, patch)] == [True, True] else (0, 0)
    if 1 <= row <= grid[0] and 1 <= column <= grid[1]:
        return row - 1, column - 1
    accepted = f'cls, or ROW COL counted from 1, in {path} up to {grid[0]} {grid[1]}'
    raise UserError(f'--patch takes {accepted}; got {" ".join(patch)}')


def whole_patches(image: np.ndarray, short: int, patch: int) -> Tensor:
    """[H, W, C] resized to [C, h, w]: the short edge as given, both sides whole patches."""
    image = image if image.dtype == np.uint8 else image.astype(np.float32)
    scale = short / min(image.shape[:2])
    return resized(image, [max(round(n * scale / patch), 1) * patch for n in image.shape[:2]])
