"""What the model paints into the same few pictures, over and over during pre-training."""

import torch
from mmengine.dataset import default_collate
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmpretrain.models import MAE
from torch.utils.data import Dataset

from mirl_mm.errors import UserError
from mirl_mm.measure.features import evaluating
from mirl_mm.models import MIRL
from mirl_mm.models.segments import is_sharded, unwrapped
from mirl_mm.pictures.panel import paint, panel, spread_over

from ..seeding import kept_random_state


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw held-out images under fixed masks through MMEngine's Visualizer.

    Panels (see :mod:`mirl_mm.pictures.panel`), from the untrained model to the end, are called
    ``panel`` and numbered by iteration: PNG files in ``vis_data/vis_image``, and whatever other
    ``visualizer.vis_backends`` the config names (TensorBoard, WandB, MLflow).

    At most ``images`` come from the validation set, else from the test set, else (with a warning:
    they are trained on) from the end of the training set. Masks belong to the file names. Drawing
    uses up no random number. Other models and sharded weights draw nothing; the log says so.

    ``interval`` is in iterations; None takes a twentieth of the run, but at least 20.
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

    def after_train_iter(self, runner: Runner, batch_idx: int, **_) -> None:
        done = runner.iter + 1
        if self.batch is not None and (done % self.every == 0 or done == runner.max_iters):
            self._draw(runner, done)

    @torch.no_grad()
    def _draw(self, runner: Runner, step: int) -> None:
        preprocessor = self.model.data_preprocessor
        with kept_random_state(), evaluating(self.model):
            columns = paint(self.model, preprocessor(self.batch))
        sheet = panel(columns, preprocessor.mean, preprocessor.std)
        runner.visualizer.add_image('panel', sheet, step)


def held_out(runner: Runner, number: int) -> tuple[Dataset, list[int]]:
    """A dataset and the places of its images to show."""
    dataset, test = None, runner.cfg.get('test_dataloader')
    if runner.val_loop is not None:
        dataset = runner.val_dataloader.dataset
    elif test:
        try:
            dataset = DATASETS.build(test.dataset)
        except (OSError, ValueError) as error:
            runner.logger.warning(f'panels: the test images cannot be read ({error})')
    if dataset is not None:
        return dataset, spread_over(len(dataset), number)
    train = runner.cfg.train_dataloader.dataset
    if test:
        train = dict(train, pipeline=test.dataset.pipeline)  # no random crop
    dataset = DATASETS.build(train)
    shown = min(number, len(dataset))
    runner.logger.warning(
        f'panels: there are no held-out images, so they show the last {shown} training images; set '
        'val_dataloader or test_dataloader, or default_hooks=dict(panel=None)'
    )
    return dataset, list(range(len(dataset) - shown, len(dataset)))
