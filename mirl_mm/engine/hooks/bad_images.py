"""Unreadable images of the whole job: counted, listed, and too many at some point."""

from pathlib import Path

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

LIST = 'bad_images.txt'


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Say after every pass over the data how many images could not be read.

    For datasets that replace such images, as UnlabelledImages does; others are left alone. Each
    image is listed once in ``bad_images.txt`` of the work dir, with what is wrong with it. The
    limit that the dataset sets for a process holds here for all of them together.

    Raises:
        RuntimeError: after a pass in which the images of all processes were too many.
    """

    before: int = 0  # unreadable images known at the last report
    replaced: int = 0

    def before_train(self, runner: Runner) -> None:
        self.dataset = runner.train_dataloader.dataset
        self.length = 0
        if hasattr(self.dataset, 'bad_images'):
            self.dataset.list_bad_images(Path(runner.work_dir) / LIST)
            self.length = len(runner.train_dataloader)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        done = runner.iter + 1
        if self.length and (done % self.length == 0 or done == runner.max_iters):
            self.report(runner)

    def report(self, runner: Runner) -> None:
        """Count over all processes, log, and stop where there are too many."""
        mine = self.dataset.bad_images()
        found = all_gather_object((mine, self.dataset.replaced()))
        bad = set().union(*(indices for indices, _ in found))
        replaced = sum(number for _, number in found)
        runner.message_hub.update_scalar('train/bad_images', len(bad))
        if replaced > self.replaced:
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
            when = f'epoch {runner.epoch + 1}' if by_epoch else f'iteration {runner.iter + 1}'
            runner.logger.warning(
                f'{when}: {replaced - self.replaced} images were replaced since they cannot be '
                f'read; {len(bad) - self.before} of them new, {len(bad)} of '
                f'{len(self.dataset)} ({len(bad) / len(self.dataset):.2%}) so far, listed in '
                f'{Path(runner.work_dir) / LIST}'
            )
        self.before, self.replaced = len(bad), replaced
        if len(bad) > self.dataset.limit:
            raise RuntimeError(
                f'{len(bad)} of {len(self.dataset)} images cannot be read, more than the '
                f'{self.dataset.limit} of {self.dataset.limit_name}: see '
                f'{Path(runner.work_dir) / LIST}'
            )
