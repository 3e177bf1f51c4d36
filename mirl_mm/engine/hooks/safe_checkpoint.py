"""Checkpoints that are there whole or not at all, also when the disk is full."""

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.checkpoint import remove_parts, write_complete

EXTRA = 'extra_ckpt'  # in the message hub: name of a checkpoint between two regular ones


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which loses nothing.

    A checkpoint appears under its name when it is complete and on the disk; ``last_checkpoint``
    names it then, and only after that older ones, or a former best, are removed. Where one cannot
    be written, the run says so, keeps what it has and goes on; if that was the last of a run, the
    run ends with an OSError. Args are CheckpointHook's.
    """

    failed: OSError | None = None  # why the newest regular checkpoint is not there
    saved_iter: int | None = None  # iterations that the newest checkpoint holds

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend='complete')
            if is_main_process():
                for folder in {self.out_dir, runner.work_dir}:
                    for name in remove_parts(folder):
                        runner.logger.info(f'removed {name}: a killed run had begun to write it')

    def save_now(self, runner: Runner) -> str | None:
        """Save after this iteration, whatever the interval; the next regular one replaces it.

        Returns:
            The path of the checkpoint; None if it could not be written.
        """
        if self.saved_iter == runner.iter + 1:
            return self.last_ckpt
        name, former = f'iter_{runner.iter + 1}.pth', runner.message_hub.get_info(EXTRA)

        def save() -> None:
            runner.message_hub.update_info(EXTRA, name)
            self._write(runner, name, dict(epoch=runner.epoch, iter=runner.iter + 1))
            self._remove([former] if former else [])

        return None if self._attempt(runner, name, save) else self.last_ckpt

    def after_train(self, runner: Runner) -> None:
        if self.failed is not None and self.save_last:
            raise OSError(
                f'training has come to its end, which could not be saved ({self.failed}); make '
                f'room and repeat what comes after {self.last_ckpt or "the start"} with --resume'
            )
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        hub, name = runner.message_hub, self.filename_tmpl.format(step)
        kept = list(getattr(self, 'keep_ckpt_ids', ()))
        if kept[-1:] != [step]:
            kept.append(step)
        old = kept[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []

        def save() -> None:
            # The file lists what is still to be removed: MMEngine does it on resume, if we cannot.
            hub.update_info('keep_ckpt_ids', kept)
            self._write(runner, name, meta)
            self.keep_ckpt_ids = deque(kept[len(old) :])
            former = hub.get_info(EXTRA)
            self._remove([former] if former not in (None, name) else [])
            hub.update_info(EXTRA, None)
            self._remove(self.filename_tmpl.format(step) for step in old)

        if self.max_keep_ckpts <= 0:
            kept, old = [], []
        self.failed = self._attempt(runner, name, save)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend, replaced = self.file_backend, []
        self.file_backend = _RemoveLater(backend, replaced)
        save = super()._save_best_checkpoint
        try:
            self._attempt(runner, 'the best checkpoint', lambda: save(runner, metrics))
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None)}
        best.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        self._remove(path for path in replaced if path not in best)

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_complete(Path(runner.work_dir) / 'last_checkpoint', self.last_ckpt.encode())
        self.saved_iter = meta['iter']

    def _attempt(self, runner: Runner, what: str, save: Callable[[], None]) -> OSError | None:
        """Save; where the disk refuses, say so and be as before. Returns the refusal."""
        runner.call_hook('settle')
        infos, own = dict(runner.message_hub.runtime_info), dict(vars(self))
        try:
            save()
        except OSError as error:
            runner.message_hub.runtime_info.clear()
            runner.message_hub.runtime_info.update(infos)
            vars(self).update({name: value for name, value in own.items() if 'ckpt' in name})
            stays = f'{self.last_ckpt} stays the one' if self.last_ckpt else 'there is none yet'
            runner.logger.error(
                f'could not save {what} after {runner.iter} iterations ({error}); the run goes on, '
                f'and to resume from, {stays}'
            )
            return error
        return None

    def _remove(self, names: Iterable[str]) -> None:
        """Remove checkpoints by name or path; those of some strategies are folders."""
        for name in names:
            path = self.file_backend.join_path(self.out_dir, name)
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif is_main_process() and self.file_backend.isdir(path):
                self.file_backend.rmtree(path)


class _RemoveLater:
    """A file backend that notes what to remove."""

    def __init__(self, backend: LocalBackend, noted: list[str]) -> None:
        self.backend, self.noted = backend, noted

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.noted.append(path)

    rmtree = remove
