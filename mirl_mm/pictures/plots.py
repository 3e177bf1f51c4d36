"""Pictures of a pre-training run: the loss curve and a panel of reconstructions."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mirl_mm.models.masking import unpatchify
from mirl_mm.models.mirl import Reconstruction


def read_scalars(work_dir: str | Path) -> list[dict]:
    """The rows of a run's newest MMEngine scalar log (``*/vis_data/scalars.json``).

    Raises:
        FileNotFoundError: the folder has no such log.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(
            f'no */vis_data/scalars.json below {work_dir}: not a work dir of a run that has logged'
        )
    return [json.loads(line) for line in logs[-1].read_text().splitlines()]


def plot_losses(rows: Sequence[dict], path: str | Path) -> None:
    """Draw the training loss, the pairs' losses and the held-out error against the iteration.

    Args:
        rows: as :func:`read_scalars` gives them.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    train = [row for row in rows if 'loss' in row]
    for name in sorted({key for row in train for key in row if key.startswith('pair_')}):
        _, g, h = name.split('_')
        axes.plot(
            [row['step'] for row in train],
            [row[name] for row in train],
            linewidth=1,
            alpha=0.7,
            label=f'segments {int(g) + 1} + {int(h) + 1}',
        )
    axes.plot(
        [row['step'] for row in train],
        [row['loss'] for row in train],
        color='black',
        linewidth=1.5,
        label='mean of the pairs',
    )
    held, step = [], 0  # MMEngine counts validations by epochs: place them behind what was trained
    for row in rows:
        step = row['step'] if 'loss' in row else step
        if 'recon/error' in row:
            held.append((step, row['recon/error']))
    if held:
        axes.plot(*zip(*held, strict=True), 'o--', color='tab:red', label='held-out images')
    axes.set(
        xlabel='iteration', ylabel='masked MSE (normalised patches)', title='MIRL pre-training'
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_panel(
    imgs: Tensor,
    result: Reconstruction,
    path: str | Path,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Draw one row per image: original, masked, then main, residual and sum of every pair.

    The main and residual pictures are raw; the sum has the visible patches pasted in.

    Args:
        imgs: [B, 3, H, W], normalised pixels.
        result: their reconstruction.
        path: the PNG to write.
        mean: per RGB channel, 0-255; undoes the normalisation.
        std: likewise.
    """
    from matplotlib.figure import Figure

    columns = panel_columns(imgs, result)
    scale = np.array(std).reshape(-1, 1, 1), np.array(mean).reshape(-1, 1, 1)
    figure = Figure(figsize=(1.3 * len(columns), 1.3 * len(imgs) + 0.4), layout='constrained')
    grid = figure.subplots(len(imgs), len(columns), squeeze=False)
    for x, (title, pictures) in enumerate(columns.items()):
        grid[0, x].set_title(title, fontsize=8)
        for axes, picture in zip(grid[:, x], pictures, strict=True):
            pixels = picture.detach().float().cpu().numpy() * scale[0] + scale[1]
            axes.imshow((pixels / 255).clip(0, 1).transpose(1, 2, 0))
            axes.axis('off')
    figure.savefig(path, dpi=120)


def panel_columns(imgs: Tensor, result: Reconstruction) -> dict[str, Tensor]:
    """The panel's columns by title, each [B, 3, H, W] normalised pixels; masked ones are 0."""
    values = result.preds[0].shape[-1]
    hidden = unpatchify(
        result.mask.unsqueeze(-1).expand(-1, -1, values), result.grid, result.patch_size
    )
    columns = {'original': imgs, 'masked': imgs * (1 - hidden)}
    painted, last = result.images(), len(result.preds)
    for g, (main, residual, both) in enumerate(zip(*painted.values(), strict=True), start=1):
        columns[f'main {g}'] = main
        columns[f'residual {last + 1 - g}'] = residual
        columns[f'sum {g} + {last + 1 - g}'] = imgs * (1 - hidden) + both * hidden
    return columns
