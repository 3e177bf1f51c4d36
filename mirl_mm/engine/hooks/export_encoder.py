"""A clean encoder file beside the state to resume from."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.checkpoint import EncoderArch, write_checkpoint
from mirl_mm.errors import UserError
from mirl_mm.models.archs import BACKBONE, check_same
from mirl_mm.models.segments import strip_wrappers


@HOOKS.register_module()
class ExportEncoderHook(Hook):
    """Write the encoder alone to ``work_dir`` with every checkpoint, the newest over the last.

    The file is a dict of ``state_dict`` and ``meta`` that loads under ``weights_only``. Names keep
    the full model's ``backbone.`` prefix, so that one line serves it, the run's ``epoch_*.pth``
    and mmpretrain's own checkpoints, in mmpretrain, mmdet and mmseg alike::

        init_cfg=dict(type='Pretrained', checkpoint='encoder.pth', prefix='backbone.')

    (also ``load_from``; ``tools/convert_checkpoint.py encoder.pth bare.pth --to backbone`` takes
    the prefix off). ``meta`` has ``arch``, ``cfg`` (the config's text), ``epoch`` and ``iter``.
    The weights are the checkpoint's ``state_dict``: with an EMAHook, the averaged ones.

    The arch is stored in every checkpoint too. Whatever the run loads or resumes is held against
    it: shapes do not tell the number of heads.

    Args:
        filename: below ``work_dir``; safetensors if it ends so.

    Raises:
        ValueError: the model has no ViT as ``backbone``; a loaded file is of another arch, or an
            encoder file where a state to resume is needed.
    """

    priority = 'LOW'  # after EMAHook, which puts the averaged weights in place

    def __init__(self, filename: str = 'encoder.pth') -> None:
        if not filename or Path(filename).name != filename:
            raise UserError(f'filename must be a plain file name, got {filename!r}')
        self.filename = filename

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.arch = EncoderArch.of_module(getattr(model, 'backbone', None))
        if self.arch is None:
            raise UserError(
                f'ExportEncoderHook needs a model with a ViT as backbone; {type(model).__name__} '
                'has none'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta') or {}
        check_same(EncoderArch.of_meta(meta), self.arch, 'this model')
        if runner._resume and meta.get('form') == 'encoder':
            raise UserError(
                f'{runner._load_from} is an encoder file, without optimizer and schedule: resume '
                'from a checkpoint such as epoch_20.pth, or start from this file with load_from'
            )

    def before_train(self, runner: Runner) -> None:
        if not any(isinstance(hook, CheckpointHook) for hook in runner.hooks):
            runner.logger.warning(f'no CheckpointHook: this run will not leave {self.filename}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        from mirl_mm import __version__

        meta = checkpoint.setdefault('meta', {})
        meta.update(arch=self.arch.to_meta(), mirl_mm_version=__version__)
        if not is_main_process():
            return
        names = strip_wrappers(checkpoint['state_dict'])
        state = {
            names[name]: tensor
            for name, tensor in checkpoint['state_dict'].items()
            if names[name].startswith(BACKBONE)
        }
        kept = ('arch', 'cfg', 'epoch', 'iter', 'time', 'mmengine_version', 'mirl_mm_version')
        meta = {key: meta[key] for key in kept if key in meta}
        write_checkpoint(Path(runner.work_dir) / self.filename, state, dict(meta, form='encoder'))
