"""What a model makes of held-out images while it is pre-trained: k-NN accuracy, painted panels."""

from collections.abc import Sequence

import torch
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models import MAE, VisionTransformer
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import Dataset

from mirl_mm.datasets.class_folders import train_and_val
from mirl_mm.errors import UserError
from mirl_mm.files import some_of
from mirl_mm.measure.features import Loading, evaluating, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import TEMPERATURE, evaluate_knn, fitting_ks
from mirl_mm.models import MIRL
from mirl_mm.models.segments import is_sharded, unwrapped
from mirl_mm.pictures.features import WHAT, feature_maps, grid_of, segment_ends
from mirl_mm.pictures.panel import paint, panel

from ..runner import FOR_TERMINAL
from ..seeding import kept_random_state


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify labelled images by their neighbours, every so often and at the end.

    Images in the class folders ``train``, at most ``limit`` of a class, vote on those in ``val``,
    at most ``val_limit`` of a class; both are evenly spread over the class.
    Accuracies (in percent) go to the log and, as ``knn/cls_k10`` and the like, to the run's
    scalars; their step and ``interval`` are in epochs, in an iteration-based loop in iterations.
    Training does not notice: no random number is used up. ``amp`` encodes in bfloat16;
    ``batch_size`` and ``num_workers`` are those of one process. ``ks`` are numbers of neighbours;
    None takes those of 10, 20, 100 and 200 that the training images allow.
    """

    priority = 'LOW'

    def __init__(
        self,
        train: str,
        val: str,
        interval: int = 20,
        at_start: bool = False,
        ks: Sequence[int] | None = None,
        limit: int | None = None,
        batch_size: int = 256,
        num_workers: int = 4,
        amp: bool = False,
        val_limit: int | None = None,
    ) -> None:
        if interval < 1:
            raise UserError(f'interval must be at least 1, got {interval}')
        self.folders, self.ks = dict(train=train, val=val, limit=limit, val_limit=val_limit), ks
        self.interval, self.at_start = interval, at_start
        self.loading = Loading(batch_size, num_workers, amp)
        self.loading.check()

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.model, FullyShardedDataParallel):
            why = 'needs the whole encoder on every process, which FSDP shards'
            what = 'take it out of custom_hooks and run tools/knn.py on a checkpoint'
            raise UserError(f'KNNHook {why}: {what}')
        self.encoder = unwrapped(runner.model).backbone
        pipeline = test_pipeline_of(runner.cfg, self.encoder.img_size)
        self.sets = train_and_val(pipeline=pipeline, **self.folders)
        self.ks, left_out = fitting_ks(self.ks, len(self.sets[0]), 'ks of KNNHook')
        if left_out:
            runner.logger.warning(left_out)
        self.preprocessor = preprocessor_of(runner.cfg).to(get_device())
        self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.at_start:
            self._evaluate(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        last = self.is_last_train_epoch(runner)
        if self.by_epoch and (last or self.every_n_epochs(runner, self.interval)):
            self._evaluate(runner, runner.epoch + 1)

    def after_train_iter(self, runner: Runner, **_) -> None:
        last = self.is_last_train_iter(runner)
        if not self.by_epoch and (last or self.every_n_train_iters(runner, self.interval)):
            self._evaluate(runner, runner.iter + 1)

    def _evaluate(self, runner: Runner, step: int) -> None:
        how = (self.ks, TEMPERATURE, self.loading)
        with evaluating(self.encoder):
            found = evaluate_knn(self.encoder, self.preprocessor, *self.sets, *how)
        scalars = {f'knn/{name}': accuracy for name, accuracy in found.items()}
        text = '  '.join(f'{name}: {accuracy:.2f}' for name, accuracy in scalars.items())
        unit = 'epoch' if self.by_epoch else 'iteration'
        runner.logger.info(f'{unit} {step}  {text}', extra=FOR_TERMINAL)
        runner.visualizer.add_scalars(scalars, step=step)


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw what the model paints into masked images through MMEngine's Visualizer.

    Panels (see :mod:`mirl_mm.pictures.panel`), from the untrained model to the end, are called
    ``panel`` and numbered by iteration. At most ``images`` come from the validation set, else from
    the test set, else (with a warning: they are trained on) from the end of the training set.
    Masks belong to the file names. Drawing uses up no random number. Other models and sharded
    weights draw nothing; the log says so.

    ``interval`` is in iterations; None takes a twentieth of the run, but at least 20. ``features``
    adds columns: ``pca``, ``attention`` or ``similarity`` (both of the middle patch) of the whole
    images, behind the last block of each segment (:mod:`mirl_mm.pictures.features`).
    """

    priority = 'LOW'

    def __init__(self, interval: int | None = None, images: int = 8, features=()) -> None:
        features = [features] if isinstance(features, str) else [*features]
        if not {*features} <= {*WHAT}:
            raise UserError(f'features must be some of {", ".join(WHAT)}, got {features}')
        if interval is not None and interval < 1:
            raise UserError(f'interval must be at least 1 or None, got {interval}')
        if images < 1:
            raise UserError(f'images must be at least 1, got {images}')
        self.interval, self.images, self.features = interval, images, features

    def before_train(self, runner: Runner) -> None:
        self.batch = None
        if not is_main_process():
            return
        self.model = unwrapped(runner.model)
        drawable = isinstance(self.model, MIRL | MAE) and not is_sharded(runner.model)
        if self.features and not (drawable and isinstance(self.model.backbone, VisionTransformer)):
            why = 'MIRL or MAE with a plain ViT, whole on every process'
            raise UserError(f'features of PanelHook need {why}; got {type(self.model).__name__}')
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
            batch, vit = preprocessor(self.batch), self.model.backbone
            columns = paint(self.model, batch)
            for what in self.features:
                rows, cols = grid_of(vit, batch['inputs'])
                ends, middle = segment_ends(vit), (rows // 2, cols // 2)
                maps = feature_maps(vit, batch['inputs'], what, ends, middle)
                columns |= {f'{what} {end + 1}': m for end, m in zip(ends, maps, strict=True)}
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
        return dataset, some_of(range(len(dataset)), number)
    train = runner.cfg.train_dataloader.dataset
    if test:
        train = dict(train, pipeline=test.dataset.pipeline)  # no random crop
    dataset = DATASETS.build(train)
    shown = min(number, len(dataset))
    what = f'there are no held-out images, so they show the last {shown} training images'
    how = 'set val_dataloader or test_dataloader, or default_hooks=dict(panel=None)'
    runner.logger.warning(f'panels: {what}; {how}')
    return dataset, list(range(len(dataset) - shown, len(dataset)))
