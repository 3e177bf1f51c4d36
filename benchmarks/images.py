"""Small images that stay on the device: loaded once, cropped and flipped there.

Shapes: N images, B batch, S side in pixels.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB


class Labelled(NamedTuple):
    """Images and their classes."""

    images: Tensor  # [N, 3, S, S] uint8, RGB
    labels: Tensor  # [N]


def read_folders(folder: Path, side: int, device: str) -> Labelled:
    """All images at ``folder/<class>/*``; labels are the places of the classes in sorted order.

    Raises:
        ValueError: there are none, or one has another size.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, i) for i, each in enumerate(classes) for file in sorted(each.iterdir())]
    if not files:
        raise ValueError(f'no class folders with images in {folder}')

    def read(entry: tuple[Path, int]) -> np.ndarray:
        with Image.open(entry[0]) as image:
            pixels = np.asarray(image.convert('RGB'))
        if pixels.shape != (side, side, 3):
            raise ValueError(f'{entry[0]} is {pixels.shape[:2]}, not {side} x {side}')
        return pixels

    with ThreadPoolExecutor(8) as pool:
        stacked = np.stack(list(pool.map(read, files)))
    images = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().to(device)
    return Labelled(images, torch.tensor([label for _, label in files], device=device))


def normalised(images: Tensor) -> Tensor:
    """[B, 3, S, S] in levels of 255 -> float32 of mean 0 and deviation 1 over ImageNet."""
    mean, std = statistics(images.device)
    return (images.float() - mean) / std


@cache  # a copy to the device in every step would make the host wait
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each [3, 1, 1]."""
    return tuple(torch.tensor(each, device=device).view(3, 1, 1) for each in (MEAN, STD))


def random_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of 0.2 to 1 of the area and 3:4 to 4:3, resized to [B, 3, S, S], half of them flipped.

    By torch's bicubic sampling: as RandomResizedCrop(crop_ratio_range=(0.2, 1)), but a crop that
    would not fit is made smaller, not drawn again, and the kernel is torch's (a = -0.75).
    """
    draws = torch.rand(5, len(images), generator=generator, device=images.device)
    area = 0.2 + 0.8 * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * float(np.log(4 / 3)))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    flip = torch.where(draws[2] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    x, y = (2 * draws[3] - 1) * (1 - width), (2 * draws[4] - 1) * (1 - height)  # centres, -1 to 1
    rows = [torch.stack([width * flip, zero, x], 1), torch.stack([zero, height, y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    cropped = F.grid_sample(
        images.float(), grid, mode='bicubic', padding_mode='border', align_corners=False
    )
    return cropped.clamp(0, 255)
