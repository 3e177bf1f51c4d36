"""A page of dense predictions: images, ground truth and predictions side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mirl_mm.files import complete_file

OPACITY = 0.55


class Instances(NamedTuple):
    """What was found on one image, or is on it."""

    labels: np.ndarray  # int [N]
    boxes: np.ndarray  # float [N, 4], x1 y1 x2 y2 in pixels
    masks: np.ndarray  # bool [N, H, W]
    scores: np.ndarray | None = None  # float [N]; None for the ground truth


def plot_predictions(
    images: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[Instances | np.ndarray]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str | Path,
) -> None:
    """Draw a PNG with a row per image: itself, then every column's entry over it.

    Images are uint8 RGB [H, W, 3]. A column has, for each of them, instances or the class of every
    pixel, int [H, W]. The palette has an RGB of 0-255 per class; black is left unpainted.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = {'image': images, **columns}
    side, colours = 2.0, np.array(palette)  # inches a picture
    size = side * len(columns), side * len(images) + 0.75
    figure = Figure(figsize=size, layout='constrained')
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for (title, found), axes_of_column in zip(columns.items(), grid.T, strict=True):
        axes_of_column[0].set_title(title, fontsize=9)
        for axes, image, each in zip(axes_of_column, images, found, strict=True):
            axes.axis('off')
            if isinstance(each, Instances):
                draw_instances(axes, image, each, colours)
            else:
                axes.imshow(image if each is image else painted(image, each, colours))
    named = zip(classes, colours, strict=True)
    patches = [Patch(color=tone / 255, label=name) for name, tone in named if tone.any()]
    figure.legend(handles=patches, loc='outside lower center', ncols=len(patches), fontsize=9)
    with complete_file(path) as part:
        figure.savefig(part, format='png', dpi=120)


def painted(image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The image under the colours of its labels, uint8; labels without a colour are left out."""
    known = (labels >= 0) & (labels < len(colours))
    tint = colours[np.where(known, labels, 0)] * known[..., None]
    mixed = (1 - OPACITY) * image + OPACITY * tint
    return np.where(tint.any(axis=-1, keepdims=True), mixed.round(), image).astype(np.uint8)


def draw_instances(axes, image: np.ndarray, found: Instances, colours: np.ndarray) -> None:
    """Masks, boxes and scores over the image; where masks overlap, the highest score is on top."""
    from matplotlib.patches import Rectangle

    number = len(found.labels)
    order = range(number) if found.scores is None else np.argsort(found.scores, kind='stable')
    labels = np.full(image.shape[:2], -1)
    for i in order:
        labels[found.masks[i]] = found.labels[i]
    axes.imshow(painted(image, labels, colours))
    for i in order:
        colour = colours[found.labels[i]] / 255
        left, top, right, bottom = found.boxes[i]
        size = right - left, bottom - top
        axes.add_patch(Rectangle((left, top), *size, fill=False, color=colour, lw=1.2))
        if found.scores is not None:
            style = dict(color='white', fontsize=6, va='top')
            style['bbox'] = dict(facecolor=colour, edgecolor='none', pad=0.6)
            axes.text(left + 1, top + 1, f'{found.scores[i]:.2f}', **style)
