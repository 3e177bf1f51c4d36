"""What tools/train.py and tools/test.py do: a config file and the command line make a runner."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mirl_mm.errors import ResumeError, UserError, did_you_mean
from mirl_mm.files import check_folder

from . import machine
from .checks import check_data
from .config_keys import check_keys, check_options
from .resume import find_checkpoint, is_whole
from .stopping import fail_fast

Options = Mapping[str, object] | None  # --cfg-options: dotted key path to value, merged first
# What MMEngine's backends import when the first value comes, after everything has been built.
PACKAGES = ('tensorboard', 'wandb', 'mlflow', 'clearml', 'neptune', 'dvclive', 'aim')


def training_config(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = 'none',
    cfg_options: Options = None,
) -> tuple[Config, list[str]]:
    """The config of a training run and the messages for its log.

    The arguments are those of tools/train.py; for ``resume`` see :func:`set_resume`. OSError: a
    file is not there, or the work dir cannot be written; UserError: a wrong key or value.
    """
    cfg = load_config(config, cfg_options, ('train_dataloader', 'train_cfg', 'optim_wrapper'))
    processes = machine.world_size(launcher)
    check_data(cfg, ['train', 'val'] if cfg.get('val_cfg') is not None else ['train'])
    set_work_dir(cfg, work_dir)
    check_init(cfg)
    notes = set_resume(cfg, resume)
    notes += machine.set_launcher(cfg, launcher, machine.has_accelerator())
    machine.pin_batches(cfg, machine.has_accelerator())
    notes += machine.set_precision(cfg, amp, machine.has_accelerator(), machine.has_bfloat16())
    if auto_scale_lr or (cfg.get('auto_scale_lr') or {}).get('enable'):
        notes += machine.scale_lr(cfg, processes)
    return cfg, notes


def testing_config(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    launcher: str = 'none',
    cfg_options: Options = None,
) -> tuple[Config, list[str]]:
    """The config of a test run and the messages for its log; raises as :func:`training_config`."""
    cfg = load_config(config, cfg_options, ('test_dataloader', 'test_cfg', 'test_evaluator'))
    machine.world_size(launcher)
    cfg.load_from, cfg.resume = checkpoint, False
    check_file(checkpoint, 'checkpoint')
    check_data(cfg, ['test'])
    whole = dict(type='ExactResumeHook', whole=True)
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, resume=whole)
    set_work_dir(cfg, work_dir)
    machine.pin_batches(cfg, machine.has_accelerator())
    return cfg, machine.set_launcher(cfg, launcher, machine.has_accelerator())


def build_runner(cfg: Config, notes: Sequence[str] = ()) -> Runner:
    """Build the runner and put the messages in its log (so on the first process alone)."""
    if cfg.launcher != 'none':
        fail_fast()
    machine.start_gloo(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.warning(note)
    return runner


def load_config(path: str, options: Options = None, needed: Sequence[str] = ()) -> Config:
    """Read a config file, check its keys, also that all needed are there, and merge options."""
    check_file(path, 'config')
    cfg = Config.fromfile(path)
    check_options(cfg, options or {})
    cfg.merge_from_dict(dict(options or {}))
    check_keys(cfg)
    if missing := [key for key in needed if cfg.get(key) is None]:
        raise UserError(f'{path} cannot be run: it has no {", ".join(missing)}')
    check_packages(cfg.get('visualizer'))
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        # torch refuses these two without workers, which one turns off to debug.
        if cfg.get(key) and not cfg[key].get('num_workers'):
            cfg[key].pop('persistent_workers', None)
            cfg[key].pop('prefetch_factor', None)
    return cfg


def check_packages(visualizer: Mapping | None) -> None:
    """UserError for a backend whose package is not installed."""
    for kind in [backend['type'] for backend in (visualizer or {}).get('vis_backends') or ()]:
        package = kind.removesuffix('VisBackend').lower()
        if package in PACKAGES and find_spec(package) is None:
            how = f'pip install {package}, or leave the backend out'
            raise UserError(f'visualizer.vis_backends: {kind} needs the package {package}: {how}')


def check_file(path: str, what: str, hint: str = '') -> None:
    """FileNotFoundError for a local file that is not there, naming one that is alike."""
    if '://' in path or Path(path).is_file():
        return
    path = Path(path)
    near = did_you_mean(path.name, [other.name for other in path.parent.glob('*')])
    looked = '' if path.is_absolute() else f'; looked in {Path.cwd()}'
    raise FileNotFoundError(f'no such {what} file: {path}{near}{looked}{hint}')


def check_init(cfg: Config) -> None:
    """FileNotFoundError where the encoder that a run starts from is not there.

    MMEngine reads it in every training run, a resumed one too.
    """
    found = ((cfg.get('model') or {}).get('backbone') or {}).get('init_cfg') or []
    key = 'model.backbone.init_cfg'
    hint = f'. Set {key}.checkpoint=FILE, or {key}=None to train from scratch'
    for settings in found if isinstance(found, list) else [found]:
        if settings.get('type') == 'Pretrained':
            check_file(settings.get('checkpoint', ''), 'pre-trained encoder', hint)


def set_work_dir(cfg: Config, work_dir: str | None = None) -> None:
    """Set ``cfg.work_dir``, make the folder and prove that it can be written."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    check_folder(cfg.work_dir, '--work-dir')


def set_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set what a run starts from; a checkpoint that is not there is an error.

    ``cfg.work_dir`` is there. ``resume`` is 'last' (the newest whole checkpoint of the work dir),
    'auto' (the same, or a new start where there is none; the config's own ``load_from`` is then in
    force), a checkpoint, a work dir (its newest), or None.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    notes, found = [], resume
    folder = cfg.work_dir if resume in ('auto', 'last') else resume
    if resume is not None and Path(folder).is_dir():
        found, notes = find_checkpoint(folder)
        if found is None:
            nothing = f'no checkpoint in {folder} to resume from'
            if resume != 'auto':
                raise FileNotFoundError(f'{nothing}; --resume auto would start anew')
            cfg.resume = False
            notes.append(f'{nothing}: starting anew')
    if found is not None:
        cfg.load_from, cfg.resume = str(found), True
    if cfg.get('load_from'):
        check_file(cfg.load_from, 'checkpoint')
    if cfg.get('resume'):
        path = Path(cfg.load_from)
        if path.is_file() and not is_whole(path):
            raise ResumeError(f'{path} is cut short, or no checkpoint of a training run')
        notes.append(f'resuming from {cfg.load_from}')
    return notes
