"""What tools/train.py and tools/test.py do: a config file and the command line make a runner."""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mirl_mm.errors import ResumeError, UserError
from mirl_mm.files import check_folder

from .checks import check_data
from .config_keys import check_keys, check_options
from .machine import (
    has_accelerator,
    has_bfloat16,
    pin_batches,
    scale_lr,
    set_launcher,
    set_precision,
    start_gloo,
    world_size,
)
from .resume import find_checkpoint, is_whole
from .stopping import fail_fast

# What MMEngine's backends import when the first value comes, after everything has been built.
PACKAGES = ('tensorboard', 'wandb', 'mlflow', 'clearml', 'neptune', 'dvclive', 'aim')


def training_config(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = 'none',
    cfg_options: Mapping[str, object] | None = None,
) -> tuple[Config, list[str]]:
    """The config of a training run and the messages for its log.

    Args:
        config: Path of the config file.
        work_dir: Folder of the run; None takes the config's, else ``work_dirs/<config stem>``.
        resume: 'last', 'auto', a path or None; see :func:`set_resume`.
        amp: Train in mixed precision.
        auto_scale_lr: Scale the learning rate to the real batch.
        launcher: One of ``machine.LAUNCHERS``.
        cfg_options: Dotted key path to value; merged before everything else.

    Raises:
        OSError: A file that the config needs is not there, or the work dir cannot be written.
        UserError: A key or value that cannot be used.
    """
    cfg = load_config(config, cfg_options)
    check_parts(cfg, 'trained', ('train_dataloader', 'train_cfg', 'optim_wrapper'))
    processes = world_size(launcher, os.environ)
    splits = ['train', 'val'] if cfg.get('val_cfg') is not None else ['train']
    check_data(cfg, splits)
    set_work_dir(cfg, work_dir)
    check_init(cfg)
    notes = set_resume(cfg, resume)
    notes += set_launcher(cfg, launcher, has_accelerator())
    pin_batches(cfg, has_accelerator())
    notes += set_precision(cfg, amp, has_accelerator(), has_bfloat16())
    if auto_scale_lr or (cfg.get('auto_scale_lr') or {}).get('enable'):
        notes += scale_lr(cfg, processes)
    return cfg, notes


def testing_config(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    launcher: str = 'none',
    cfg_options: Mapping[str, object] | None = None,
) -> tuple[Config, list[str]]:
    """The config of a test run and the messages for its log; raises as :func:`training_config`."""
    cfg = load_config(config, cfg_options)
    check_parts(cfg, 'tested', ('test_dataloader', 'test_cfg', 'test_evaluator'))
    world_size(launcher, os.environ)
    cfg.load_from, cfg.resume = checkpoint, False
    check_file(checkpoint, 'checkpoint')
    check_data(cfg, ['test'])
    whole = dict(type='ExactResumeHook', whole=True)
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, resume=whole)
    set_work_dir(cfg, work_dir)
    pin_batches(cfg, has_accelerator())
    return cfg, set_launcher(cfg, launcher, has_accelerator())


def build_runner(cfg: Config, notes: Sequence[str] = ()) -> Runner:
    """Build the runner and put the messages in its log (so on the first process alone)."""
    if cfg.launcher != 'none':
        fail_fast()
    start_gloo(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.warning(note)
    return runner


def load_config(path: str, options: Mapping[str, object] | None = None) -> Config:
    """Read a config file, check its keys and merge ``--cfg-options``."""
    check_file(path, 'config')
    cfg = Config.fromfile(path)
    check_options(cfg, options or {})
    cfg.merge_from_dict(dict(options or {}))
    check_keys(cfg)
    check_packages(cfg.get('visualizer'))
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        # torch refuses these two without workers, which one turns off to debug.
        if cfg.get(key) and not cfg[key].get('num_workers'):
            cfg[key].pop('persistent_workers', None)
            cfg[key].pop('prefetch_factor', None)
    return cfg


def check_parts(cfg: Config, done: str, parts: Sequence[str]) -> None:
    """UserError where parts without which a config cannot be trained or tested are not in it."""
    if missing := [key for key in parts if cfg.get(key) is None]:
        raise UserError(f'{cfg.filename} cannot be {done}: it has no {", ".join(missing)}')


def check_packages(visualizer: Mapping | None) -> None:
    """UserError for a backend whose package is not installed."""
    for backend in (visualizer or {}).get('vis_backends') or ():
        package = backend['type'].removesuffix('VisBackend').lower()
        if package in PACKAGES and find_spec(package) is None:
            raise UserError(
                f'visualizer.vis_backends names {backend["type"]}, which needs the package '
                f'{package}: pip install {package}, or leave the backend out'
            )


def check_file(path: str, what: str) -> None:
    """FileNotFoundError for a local file that is not there, naming one that is alike."""
    if '://' in path or Path(path).is_file():
        return
    path = Path(path)
    near = get_close_matches(path.name, [other.name for other in path.parent.glob('*')], n=1)
    raise FileNotFoundError(
        f'no such {what} file: {path}'
        + (f' (did you mean {path.parent / near[0]}?)' if near else '')
        + ('' if path.is_absolute() else f'; looked in {Path.cwd()}')
    )


def check_init(cfg: Config) -> None:
    """FileNotFoundError where the encoder that a run starts from is not there.

    MMEngine reads it in every training run, a resumed one too.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    found = backbone.get('init_cfg') or []
    for settings in found if isinstance(found, list) else [found]:
        if settings.get('type') != 'Pretrained':
            continue
        try:
            check_file(settings.get('checkpoint', ''), 'pre-trained encoder')
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{error}. Set model.backbone.init_cfg.checkpoint=FILE, or '
                'model.backbone.init_cfg=None to train from scratch'
            ) from error


def set_work_dir(cfg: Config, work_dir: str | None = None) -> None:
    """Set ``cfg.work_dir``, make the folder and prove that it can be written."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    check_folder(cfg.work_dir, '--work-dir')


def set_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set what the run starts from, for ``--resume``; a checkpoint that is not there is an error.

    Args:
        cfg: A training config whose ``work_dir`` is set.
        resume: 'last' (the newest whole checkpoint of the work dir), 'auto' (the same, or a new
            start where there is none; the config's own ``load_from`` is then in force), a
            checkpoint, a work dir (its newest), or None.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    notes: list[str] = []
    if resume in ('auto', 'last') or (resume is not None and Path(resume).is_dir()):
        folder = cfg.work_dir if resume in ('auto', 'last') else resume
        found, notes = find_checkpoint(folder)
        if found is None and resume != 'auto':
            raise FileNotFoundError(
                f'no checkpoint in {folder} to resume from; --resume auto would start anew'
            )
        if found is None:
            cfg.resume = False
            notes.append(f'no checkpoint in {folder} to resume from: starting anew')
        else:
            cfg.load_from, cfg.resume = str(found), True
    elif resume is not None:
        cfg.load_from, cfg.resume = resume, True
    if cfg.get('load_from'):
        check_file(cfg.load_from, 'checkpoint')
    if cfg.get('resume'):
        path = Path(cfg.load_from)
        if path.is_file() and not is_whole(path):
            raise ResumeError(f'{path} is cut short, or no checkpoint of a training run')
        notes.append(f'resuming from {cfg.load_from}')
    return notes
