"""The panel: what a model paints into masked images, one row an image; for hooks, tools and demo.

Shapes: B images, L patches, p patch side in pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmpretrain.models import MAE
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirl_mm.errors import UserError
from mirl_mm.files import complete_file
from mirl_mm.models import MIRL
from mirl_mm.models.masking import fixed_noise, gather_tokens, num_kept, random_masking, unpatchify
from mirl_mm.models.mirl import Reconstruction

TILE, GAP, HEADER = 128, 2, 16  # pixels


def paint(model: MIRL | MAE, batch: Mapping) -> dict[str, Tensor]:
    """The columns of images as the data preprocessor gives them, under masks that are theirs."""
    imgs = batch['inputs']
    return painted(model, imgs, fixed_noise(imgs, batch['data_samples'], model.head.patch_size))[0]


def painted(model: MIRL | MAE, imgs: Tensor, noise: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The columns by title, each [B, 3, H, W], and errors [B, P] on what the model was to paint.

    Images are normalised; of the noise [B, L], the smallest of a row stay visible. P is 1 for MAE.
    """
    if not isinstance(model, MIRL):
        return mae_columns(model, imgs, noise)
    result = model.reconstruct(imgs, noise)
    return panel_columns(imgs, result), result.pair_errors


def panel_columns(imgs: Tensor, result: Reconstruction) -> dict[str, Tensor]:
    """MIRL's columns by title, each [B, 3, H, W] normalised pixels: main, residual, sum of a pair.

    Segments count from 0 and a sum has the pair's name, as in the log. Masked pixels are 0. Main
    and residual are raw; the sum has the visible patches pasted in, as has what paints alone.
    """
    mask = result.mask.unsqueeze(-1).expand_as(result.target)
    hidden = unpatchify(mask, result.grid, result.patch_size)
    columns, painted = {'original': imgs, 'masked': imgs * (1 - hidden)}, result.images()
    if not painted['sum']:  # every decoder paints alone
        alone = zip(result.pairs, painted['main'], strict=True)
        return columns | {f'pair_{g}': columns['masked'] + each * hidden for (g,), each in alone}
    for (g, h), main, residual, both in zip(result.pairs, *painted.values(), strict=True):
        columns |= {f'main {g}': main, f'residual {h}': residual}
        columns[f'pair_{g}_{h}'] = columns['masked'] + both * hidden
    return columns


def mae_columns(model: MAE, imgs: Tensor, noise: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """MAE's columns and errors [B, 1], as MIRL's: see :func:`painted`."""

    if imgs.shape[-2:] != (size := tuple(model.backbone.img_size)):
        raise UserError(f'MAE paints its own size, {size}; got {tuple(imgs.shape[-2:])}')

    def masked_by_noise(tokens: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        ids_keep, ids_restore, mask = random_masking(noise, num_kept(len(noise[0]), mask_ratio))
        return gather_tokens(tokens, ids_keep), mask, ids_restore

    model.backbone.random_masking = masked_by_noise  # mmpretrain's draws its noise
    try:
        latent, mask, ids_restore = model.backbone(imgs)
    finally:
        del model.backbone.random_masking
    pred, patches = model.neck(latent, ids_restore), model.head.patchify(imgs)  # [B, L, p*p*3]
    error = (pred - model.head.construct_target(imgs)).square().mean(-1)  # [B, L]
    error = (error * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    if model.head.norm_pix:
        pred = pred * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    side, hidden = model.head.patch_size, mask.unsqueeze(-1)
    grid = imgs.shape[-2] // side, imgs.shape[-1] // side
    masked = patches * (1 - hidden)
    columns = {'masked': masked, 'painted': masked + pred * hidden}
    columns = {name: unpatchify(c, grid, side) for name, c in columns.items()}
    return {'original': imgs} | columns, error


def panel(columns: Mapping[str, Tensor], mean=0, std=1, zoom: int = 1, rows=()) -> np.ndarray:
    """Draw columns [B, 3, H, W] under their titles: one picture [height, width, 3], uint8.

    Images of more than 128 pixels times ``zoom`` are shrunk, smaller ones magnified by a whole
    number. Columns are as :func:`seen` takes them, the first one for all; ``rows`` are names of the
    B rows, at their left.
    """
    first, tile, header = next(iter(columns.values())), zoom * TILE, zoom * HEADER
    h, w = first.shape[2:]
    scale = tile // max(h, w) if max(h, w) <= tile else tile / max(h, w)
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    lines = max((name.count('\n') + 1 for name in rows), default=0)
    step_x, step_y = size[0] + GAP, max(size[1], lines * header) + GAP
    font = ImageFont.load_default(10 * zoom)
    margin = header + round(max(map(font.getlength, '\n'.join(rows).split('\n')))) if rows else 0
    whole = margin + len(columns) * step_x - GAP, header + len(first) * step_y - GAP
    sheet = Image.new('RGB', whole, 'white')
    draw = ImageDraw.Draw(sheet)
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for y, name in enumerate(rows):
        place = margin / 2, header + y * step_y + size[1] / 2
        draw.text(place, name, 'black', font, anchor='mm', align='center')
    for x, (title, imgs) in enumerate(columns.items()):
        left = margin + x * step_x
        draw.text((left + size[0] / 2, header / 2), title, 'black', font, anchor='mm')
        pixels = seen(imgs, mean, std, first).permute(0, 2, 3, 1).cpu().numpy()
        for y, picture in enumerate(pixels):
            picture = Image.fromarray(picture).resize(size, resampling)
            sheet.paste(picture, (left, header + y * step_y))
    return np.asarray(sheet)


def seen(imgs: Tensor, mean=0, std=1, first: Tensor | None = None) -> Tensor:
    """Normalised [B, C, H, W] as pixels [B, 3, H, W], uint8; what is uint8 stays as it is.

    The data preprocessor's ``mean`` and ``std``, [C, 1, 1] each, undo its normalisation. Of C
    channels the first three are shown (of two, one), each from its least to its greatest value in
    ``first``, such as the originals; so are three of other ranges than 0 to 255.
    """
    if imgs.dtype == torch.uint8:
        return imgs
    first, shown = imgs if first is None else first, [0, 1, 2]
    if (channels := first.shape[1]) != 3 or not 1 <= torch.as_tensor(std).max() < 128:
        low, high = first.float().amin((0, 2, 3), True), first.float().amax((0, 2, 3), True)
        std = 255 / (high - low + 1e-6)
        mean, shown = -low * std, shown if channels > 2 else [0, 0, 0]
    return (imgs.detach().float() * std + mean).round().clamp(0, 255).byte()[:, shown]


def write_picture(pixels: np.ndarray, path: str | Path) -> None:
    """Write uint8 [height, width, 3] as a .png, .jpg, .pdf or .svg."""
    from matplotlib.image import imsave

    ending = Path(path).suffix.lower()
    with complete_file(path) as part:
        if ending == '.svg':
            imsave(part, pixels, format='svg')
        else:
            Image.fromarray(pixels).save(part, Image.registered_extensions()[ending])
