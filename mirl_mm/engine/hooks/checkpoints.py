"""What a run leaves behind: checkpoints, whole or not at all, and a clean encoder beside them."""

import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.checkpoint import write_checkpoint
from mirl_mm.errors import UserError
from mirl_mm.files import remove_parts, write_complete, written_later
from mirl_mm.models.archs import BACKBONE, EncoderArch, check_same
from mirl_mm.models.segments import strip_wrappers, unwrapped

EXTRA = 'extra_ckpt'  # in the message hub: name of a checkpoint between two regular ones
STATE = re.compile('ckpt|best_score|saved_iter')  # in the message hub and the hook: what is there
KEPT = ('arch', 'cfg', 'epoch', 'iter', 'time', 'mmengine_version', 'mirl_mm_version')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which loses nothing, and for which nobody waits.

    A checkpoint is packed in memory, and a thread writes it while the run goes on; the next one,
    SIGTERM, an error and the end wait for the thread. It appears under its name when it is complete
    and on the disk; ``last_checkpoint`` names it then, and only then older ones, or a former best,
    go. Where one cannot be written, the run says so, keeps what it has and goes on; if it was the
    last, the run ends with an OSError. Other places than local disks are written to at once.
    """

    failed: OSError | None = None  # why the newest regular checkpoint is not there
    saved_iter: int | None = None  # iterations that the newest checkpoint holds
    calls: list | None = None  # of the save that is being packed: what to do on the disk
    writing: tuple[Future, Callable[[OSError], None]] | None = None  # and what if it is refused

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.args:  # MMEngine would find that out at the first checkpoint
            wrong = f'an unexpected keyword argument {next(iter(self.args))!r}'
            raise TypeError(f'SafeCheckpointHook() got {wrong}')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend='complete')
            for folder in {self.out_dir, runner.work_dir} if is_main_process() else ():
                for name in remove_parts(folder):
                    runner.logger.info(f'removed {name}: a killed run had begun to write it')

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if self.writing is not None and self.writing[0].done():
            self.flush(runner)
        super().after_train_iter(runner, *args, **kwargs)

    def save_now(self, runner: Runner) -> str | None:
        """Save after this iteration, until the next regular one; its path, or None if it failed."""
        name, former = f'iter_{runner.iter + 1}.pth', runner.message_hub.get_info(EXTRA)

        def save() -> None:
            runner.message_hub.update_info(EXTRA, name)
            self._write(runner, name, dict(epoch=runner.epoch, iter=runner.iter + 1))
            self._remove(former)

        if self.saved_iter != runner.iter + 1:
            self._attempt(runner, name, save)
        self.flush(runner)
        return self.last_ckpt if self.saved_iter == runner.iter + 1 else None

    def flush(self, runner: Runner) -> None:
        """Wait until what is being written is on the disk, or has failed."""
        if self.writing is not None:
            (written, refused), self.writing = self.writing, None
            try:
                written.result()
                self.failed = None
            except OSError as error:
                refused(error)

    def after_train(self, runner: Runner) -> None:
        self.flush(runner)
        if self.failed is not None and self.save_last:
            what = f'training has come to its end, which could not be saved ({self.failed})'
            left = f'what comes after {self.last_ckpt or "the start"}'
            raise OSError(f'{what}; make room and repeat {left} with --resume')
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        hub, name = runner.message_hub, self.filename_tmpl.format(step)
        kept, old = [], []
        if self.max_keep_ckpts > 0:
            kept = [*(each for each in self.keep_ckpt_ids if each != step), step]
            old = kept[: -self.max_keep_ckpts]

        def save() -> None:
            # The file lists what is still to be removed: MMEngine does it on resume, if we cannot.
            hub.update_info('keep_ckpt_ids', kept)
            self._write(runner, name, meta)
            self.keep_ckpt_ids = deque(kept[len(old) :])
            former = hub.get_info(EXTRA)
            hub.update_info(EXTRA, None)
            self._remove(former if former != name else None, *map(self.filename_tmpl.format, old))

        self._attempt(runner, name, save, regular=True)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """MMEngine removes the former best first: note what, and remove it behind."""
        backend, replaced, save = self.file_backend, [], super()._save_best_checkpoint
        asked = {name: getattr(backend, name) for name in ('isfile', 'isdir', 'join_path')}

        def save_all() -> None:
            note = SimpleNamespace(**asked, remove=replaced.append, rmtree=replaced.append)
            try:
                self.file_backend = note
                save(runner, metrics)
            finally:
                self.file_backend = backend
            several = getattr(self, 'best_ckpt_path_dict', {}).values()
            best = (getattr(self, 'best_ckpt_path', None), *several)
            self._remove(*(path for path in replaced if path not in best))

        self._attempt(runner, 'the best checkpoint', save_all)

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        where = (self.out_dir, name, self.file_client_args)
        parts = (self.save_optimizer, self.save_param_scheduler)
        runner.save_checkpoint(*where, *parts, meta, self.by_epoch, self.backend_args, **self.args)
        if is_main_process():
            write_complete(Path(runner.work_dir) / 'last_checkpoint', self.last_ckpt.encode())
        self.saved_iter = meta['iter']

    def _attempt(
        self, runner: Runner, what: str, save: Callable[[], None], regular: bool = False
    ) -> None:
        """Pack a save and have it written; where the disk refuses, say so and be as before."""
        if self.calls is not None:  # a new best saves the regular one anew
            return save()
        runner.call_hook('settle')
        self.flush(runner)
        done, places = runner.iter, (runner.message_hub.runtime_info, vars(self))
        before = [{n: copy(x) for n, x in place.items() if STATE.search(n)} for place in places]

        def refused(error: OSError) -> None:
            for place, former in zip(places, before, strict=True):
                for name in [n for n in place if STATE.search(n) and n not in former]:
                    del place[name]
                place.update(former)
            self.failed = error if regular else self.failed
            stays = f'{self.last_ckpt} stays the one' if self.last_ckpt else 'there is none yet'
            failed = f'could not save {what} after {done} iterations ({error})'
            runner.logger.error(f'{failed}; the run goes on, and to resume from, {stays}')

        try:
            with written_later() as self.calls:
                save()
        except OSError as error:  # of another place than a local disk
            return refused(error)
        finally:
            calls, self.calls = self.calls, None
        if calls:
            thread = ThreadPoolExecutor(1, 'checkpoints')
            self.writing = thread.submit(_make, calls), refused
            thread.shutdown(wait=False)  # it ends with its calls

    def _remove(self, *names: str | None) -> None:
        """Behind what has been written, remove checkpoints by name or path."""
        for name in filter(None, names if is_main_process() else ()):
            path = self.file_backend.join_path(self.out_dir, name)
            self.calls.append(partial(self._erase, path))

    def _erase(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # of some strategies
            self.file_backend.rmtree(path)


def _make(calls: list[Callable[[], None]]) -> None:
    """Make calls in their order; each is forgotten, with the bytes it holds."""
    while calls:
        calls.pop(0)()


@HOOKS.register_module()
class ExportEncoderHook(Hook):
    """Write the encoder alone to ``work_dir`` with every checkpoint, the newest over the last.

    The file (safetensors if ``filename`` ends so) is a dict of ``state_dict`` (with an EMAHook, the
    averaged weights) and ``meta`` that loads under ``weights_only``. Names keep the prefix
    ``backbone.``, as in the run's ``epoch_*.pth`` and mmpretrain's own checkpoints. Every
    checkpoint has the arch in its ``meta`` too, and what the run loads or resumes is held against
    it: shapes do not tell the number of heads.
    """

    priority = 'LOW'  # after EMAHook, which puts the averaged weights in place

    def __init__(self, filename: str = 'encoder.pth') -> None:
        if not filename or Path(filename).name != filename:
            raise UserError(f'filename must be a plain file name, got {filename!r}')
        self.filename = filename

    def before_run(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        self.arch = EncoderArch.of_module(getattr(model, 'backbone', None))
        if self.arch is None:
            needed = 'ExportEncoderHook needs a model with a ViT as backbone'
            raise UserError(f'{needed}; {type(model).__name__} has none')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta') or {}
        check_same(EncoderArch.of_meta(meta), self.arch, 'this model')
        if runner._resume and meta.get('form') == 'encoder':
            what = f'{runner._load_from} is an encoder file, without optimizer and schedule'
            how = 'resume from a checkpoint such as epoch_20.pth, or start from it with load_from'
            raise UserError(f'{what}: {how}')

    def before_train(self, runner: Runner) -> None:
        if not any(isinstance(hook, CheckpointHook) for hook in runner.hooks):
            runner.logger.warning(f'no CheckpointHook: this run will not leave {self.filename}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        from mirl_mm import __version__

        meta = checkpoint.setdefault('meta', {})
        meta.update(arch=self.arch.to_meta(), mirl_mm_version=__version__)
        if is_main_process():
            names, state = strip_wrappers(checkpoint['state_dict']), checkpoint['state_dict']
            state = {names[n]: x for n, x in state.items() if names[n].startswith(BACKBONE)}
            meta = {key: meta[key] for key in KEPT if key in meta} | dict(form='encoder')
            write_checkpoint(Path(runner.work_dir) / self.filename, state, meta)
