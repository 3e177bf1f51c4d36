"""k-NN accuracy of the encoder while it is pre-trained."""

from collections.abc import Sequence

from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mirl_mm.datasets.class_folders import check_classes, class_folders
from mirl_mm.errors import UserError
from mirl_mm.measure.features import Loading, evaluating, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import KS, TEMPERATURE, check_ks, evaluate_knn
from mirl_mm.models.segments import unwrapped

from ..runner import FOR_TERMINAL


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify labelled images by their neighbours, every so often and at the end.

    Images in the class folders ``train``, at most ``limit`` of a class, vote on those in ``val``.
    Accuracies (in percent) go to the log and, as ``knn/cls_k10`` and the like, to the run's
    scalars; their step and ``interval`` are in epochs, in an iteration-based loop in iterations.
    Training does not notice: no random number is used up. Folders and settings that cannot be used
    are an error at the start, and so is a model that FSDP shards.

    ``amp`` encodes in bfloat16; ``batch_size`` and ``num_workers`` are those of one process.
    """

    priority = 'LOW'

    def __init__(
        self,
        train: str,
        val: str,
        interval: int = 20,
        at_start: bool = False,
        ks: Sequence[int] = KS,
        temperature: float = TEMPERATURE,
        limit: int | None = None,
        batch_size: int = 256,
        num_workers: int = 4,
        amp: bool = False,
    ) -> None:
        if interval < 1:
            raise UserError(f'interval must be at least 1, got {interval}')
        self.folders, self.limit = (train, val), limit
        self.interval, self.at_start = interval, at_start
        self.ks, self.temperature = ks, temperature
        self.loading = Loading(batch_size, num_workers, amp)

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.model, FullyShardedDataParallel):
            raise UserError(
                'KNNHook needs the whole encoder on every process, which FSDP shards: take it out '
                'of custom_hooks and run tools/knn.py on a checkpoint'
            )
        self.encoder = unwrapped(runner.model).backbone
        pipeline = test_pipeline_of(runner.cfg, self.encoder.img_size[0])
        self.sets = [class_folders(folder, pipeline, self.limit) for folder in self.folders]
        check_classes(*self.sets)
        check_ks(self.ks, len(self.sets[0]))
        self.preprocessor = preprocessor_of(runner.cfg.model).to(get_device())
        self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.at_start:
            self.evaluate(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        last = self.is_last_train_epoch(runner)
        if self.by_epoch and (last or self.every_n_epochs(runner, self.interval)):
            self.evaluate(runner, runner.epoch + 1)

    def after_train_iter(self, runner: Runner, **_) -> None:
        last = self.is_last_train_iter(runner)
        if not self.by_epoch and (last or self.every_n_train_iters(runner, self.interval)):
            self.evaluate(runner, runner.iter + 1)

    def evaluate(self, runner: Runner, step: int) -> None:
        """Evaluate and log; the encoder goes back to the mode it was in."""
        how = (self.ks, self.temperature, self.loading)
        with evaluating(self.encoder):
            found = evaluate_knn(self.encoder, self.preprocessor, *self.sets, *how)
        scalars = {f'knn/{name}': accuracy for name, accuracy in found.items()}
        text = '  '.join(f'{name}: {accuracy:.2f}' for name, accuracy in scalars.items())
        unit = 'epoch' if self.by_epoch else 'iteration'
        runner.logger.info(f'{unit} {step}  {text}', extra=FOR_TERMINAL)
        runner.visualizer.add_scalars(scalars, step=step)
