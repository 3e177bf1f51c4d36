"""What the model paints into the same few pictures, over and over during pre-training.

Shapes: B images, C columns.
"""

from collections.abc import Mapping

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmpretrain.models import MAE
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from mirl_mm.errors import UserError
from mirl_mm.measure.encoder import evaluating
from mirl_mm.models import MIRL
from mirl_mm.models.masking import unpatchify
from mirl_mm.models.segments import is_sharded, unwrapped
from mirl_mm.pictures.plots import panel_columns

from ..seeding import kept_random_state

TILE = 128  # pixels; larger pictures are shrunk, smaller ones magnified by a whole number
GAP, HEADER = 2, 16


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw held-out images under fixed masks through MMEngine's Visualizer.

    One row an image. MIRL's columns are original, masked, then main, residual and sum of every
    pair; MAE's are original, masked and painted. The panels are named ``panel`` and numbered by
    iteration: PNG files in ``vis_data/vis_image``, and whatever other backends the config names
    (``visualizer.vis_backends``: TensorBoard, WandB, MLflow). The first one shows the untrained
    model, the last one the end.

    Images come from the validation set, else from the test set, else (with a warning: they are
    trained on) from the end of the training set. Masks belong to the file names. Drawing uses up
    no random number, and the model returns to the mode that it was in. With other models, and with
    sharded weights, nothing is drawn; the log file says so.

    Args:
        interval: iterations; None takes a twentieth of the run, but at least 20.
        images: how many, at most.
    """

    priority = 'LOW'

    def __init__(self, interval: int | None = None, images: int = 8) -> None:
        if interval is not None and interval < 1:
            raise UserError(f'interval must be at least 1 or None, got {interval}')
        if images < 1:
            raise UserError(f'images must be at least 1, got {images}')
        self.interval, self.images = interval, images

    def before_train(self, runner: Runner) -> None:
        self.batch = None
        if not is_main_process():
            return
        self.model = unwrapped(runner.model)
        if not isinstance(self.model, MIRL | MAE):
            return runner.logger.info(f'no panels: {type(self.model).__name__} paints nothing')
        if is_sharded(runner.model):
            return runner.logger.warning('no panels: the weights are sharded over processes')
        self.every = self.interval or max(runner.max_iters // 20, 20)
        with kept_random_state():
            dataset, picks = held_out(runner, self.images)
            self.batch = default_collate([dataset[i] for i in picks])
        if runner.iter == 0:
            self._draw(runner, 0)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        done = runner.iter + 1
        if self.batch is not None and (done % self.every == 0 or done == runner.max_iters):
            self._draw(runner, done)

    @torch.no_grad()
    def _draw(self, runner: Runner, step: int) -> None:
        model = self.model
        with kept_random_state(), evaluating(model):
            batch = model.data_preprocessor(self.batch)
            imgs = batch['inputs']  # [B, 3, H, W]
            if isinstance(model, MIRL):
                noise = model.fixed_noise(imgs, batch['data_samples'])
                columns = panel_columns(imgs, model.reconstruct(imgs, noise))
            else:
                columns = mae_columns(model, imgs)
        mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
        pixels = {title: imgs * std + mean for title, imgs in columns.items()}
        runner.visualizer.add_image('panel', panel(pixels), step)


def held_out(runner: Runner, number: int) -> tuple[Dataset, list[int]]:
    """A dataset and the places of its images to show."""
    dataset = None
    if runner.val_loop is not None:
        dataset = runner.val_dataloader.dataset
    elif test := runner.cfg.get('test_dataloader'):
        try:
            dataset = DATASETS.build(test.dataset)
        except (OSError, ValueError) as error:
            runner.logger.warning(f'panels: the test images cannot be read ({error})')
    if dataset is not None:
        return dataset, spread_over(len(dataset), number)
    train = runner.cfg.train_dataloader.dataset
    if test := runner.cfg.get('test_dataloader'):
        train = dict(train, pipeline=test.dataset.pipeline)  # no random crop
    dataset = DATASETS.build(train)
    shown = min(number, len(dataset))
    runner.logger.warning(
        f'panels: there are no held-out images, so they show the last {shown} training images; set '
        'val_dataloader or test_dataloader, or default_hooks=dict(panel=None)'
    )
    return dataset, list(range(len(dataset) - shown, len(dataset)))


def spread_over(length: int, number: int) -> list[int]:
    """Places of so many images, or of all where there are fewer, evenly over a dataset."""
    shown = min(number, length)
    return [i * length // shown for i in range(shown)]


def mae_columns(model: MAE, imgs: Tensor) -> dict[str, Tensor]:
    """MAE's panel, each column [B, 3, H, W] in normalised pixels; draws its mask from seed 0."""
    torch.manual_seed(0)
    latent, mask, ids_restore = model.backbone(imgs)
    pred, patches = model.neck(latent, ids_restore), model.head.patchify(imgs)  # [B, L, p*p*3]
    if model.head.norm_pix:
        pred = pred * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    side = model.head.patch_size
    grid = imgs.shape[-2] // side, imgs.shape[-1] // side
    hidden = mask.unsqueeze(-1)
    return {
        'original': imgs,
        'masked': unpatchify(patches * (1 - hidden), grid, side),
        'painted': unpatchify(patches * (1 - hidden) + pred * hidden, grid, side),
    }


def panel(columns: Mapping[str, Tensor]) -> np.ndarray:
    """One picture [H, W, 3] uint8 of C columns [B, 3, h, w] with values 0 to 255, with titles."""
    h, w = next(iter(columns.values())).shape[-2:]
    scale = TILE // max(h, w) if max(h, w) <= TILE else TILE / max(h, w)
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    rows = len(next(iter(columns.values())))
    width = len(columns) * (size[0] + GAP) - GAP
    sheet = Image.new('RGB', (width, HEADER + rows * (size[1] + GAP) - GAP), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    filter_ = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for x, (title, pictures) in enumerate(columns.items()):
        left = x * (size[0] + GAP)
        draw.text((left + size[0] / 2, HEADER / 2), title, 'black', font, anchor='mm')
        pixels = pictures.float().round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        for y, picture in enumerate(pixels):
            tile = Image.fromarray(picture).resize(size, filter_)
            sheet.paste(tile, (left, HEADER + y * (size[1] + GAP)))
    return np.asarray(sheet)
