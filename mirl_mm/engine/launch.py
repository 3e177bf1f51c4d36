"""What tools/train.py and tools/test.py do: a config file and the command line make a runner."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mirl_mm.checkpoint.loading import check_start
from mirl_mm.errors import ResumeError, UserError, did_you_mean
from mirl_mm.files import check_folder, find_config, lock_folder
from mirl_mm.libraries import check_libraries

from . import machine
from .checks import check_channels, check_data
from .checks.settings import check_keys, check_options, check_packages
from .own_data import use_data
from .resume import find_checkpoint, is_whole
from .stopping import fail_fast, follow_launcher

Options = Mapping[str, object] | None  # --cfg-options: dotted key path to value, merged first


def training_config(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = 'none',
    cfg_options: Options = None,
    data: str | None = None,
) -> tuple[Config, list[str]]:
    """The config of a training run and the messages for its log; arguments as of tools/train.py.

    OSError: a file is not there, or the work dir cannot be written; UserError: a wrong setting.
    """
    notes = follow_launcher()
    cfg = load_config(config, cfg_options, ('train_dataloader', 'train_cfg', 'optim_wrapper'))
    processes = machine.world_size(launcher)
    set_work_dir(cfg, work_dir)
    if machine.rank(launcher) == 0:
        notes += lock_folder(cfg.work_dir, cfg.filename)
    notes += use_data(cfg, data, cfg_options, ('train', 'val', 'test')) if data else []
    notes += check_data(cfg, ['train', 'val'] if cfg.get('val_cfg') is not None else ['train'])
    check_init(cfg)
    notes += set_resume(cfg, resume)
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
    data: str | None = None,
) -> tuple[Config, list[str]]:
    """The config of a test run and the messages for its log; raises as :func:`training_config`."""
    follow_launcher()
    cfg = load_config(config, cfg_options, ('test_dataloader', 'test_cfg', 'test_evaluator'))
    machine.world_size(launcher)
    cfg.load_from, cfg.resume = checkpoint, False
    check_file(checkpoint, 'checkpoint')
    set_work_dir(cfg, work_dir)
    notes = use_data(cfg, data, cfg_options, ('test',)) if data else []
    notes += check_data(cfg, ['test'])
    whole = dict(type='ExactResumeHook', whole=True)
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, resume=whole)
    machine.pin_batches(cfg, machine.has_accelerator())
    return cfg, notes + machine.set_launcher(cfg, launcher, machine.has_accelerator())


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
    """A config, by path or name, with the options merged; UserError for a wrong or missing key."""
    path = find_config(path)
    try:
        cfg = Config.fromfile(path)
    except OSError:
        raise
    except Exception as error:  # it is a program, or lists modules to import
        while error.__context__:  # MMEngine's words for a module are many lines
            error = error.__context__
        text = str(error).partition('\n')[0]
        raise UserError(f'{path} cannot be read: {type(error).__name__}: {text}') from error
    cfg.merge_from_dict(check_options(cfg, options or {}) | dict(options or {}))
    check_keys(cfg)
    if missing := [key for key in needed if cfg.get(key) is None]:
        raise UserError(f'{path} cannot be run: it has no {", ".join(missing)}')
    for split in ('val', 'test') if needed else ():
        parts = [f'{split}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        there = [key for key in parts if cfg.get(key) is not None]
        if there and (missing := [key for key in parts if key not in there]):
            how = f'give all three, or none: {" ".join(f"{key}=None" for key in there)}'
            raise UserError(f'{", ".join(there)} without {" and ".join(missing)}: {how}')
    check_channels(cfg)
    check_packages(cfg.get('visualizer'))
    check_libraries(cfg.get('default_scope'))
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        # torch refuses these two without workers, which one turns off to debug.
        if cfg.get(key) and not cfg[key].get('num_workers'):
            cfg[key].pop('persistent_workers', None)
            cfg[key].pop('prefetch_factor', None)
    return cfg


def check_file(path: str, what: str, hint: str = '') -> None:
    """FileNotFoundError for a local file that is not there, naming one that is alike."""
    if '://' in path or Path(path).is_file():
        return
    path = Path(path)
    near = did_you_mean(path.name, [other.name for other in path.parent.glob('*')])
    near = ', which is a folder: tools/convert_checkpoint.py reads it' if path.is_dir() else near
    looked = '' if path.is_absolute() else f'; looked in {Path.cwd()}'
    raise FileNotFoundError(f'no such {what} file: {path}{near}{looked}{hint}')


def check_init(cfg: Config) -> None:
    """Is the encoder there that a run starts from? MMEngine reads it in a resumed one too."""
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    found, key = backbone.get('init_cfg') or [], 'model.backbone.init_cfg'
    hint = f'. Set {key}.checkpoint=FILE, or {key}=None to train from scratch'
    for settings in found if isinstance(found, list) else [found]:
        if settings.get('type') == 'Pretrained':
            path = settings.get('checkpoint', '')
            check_file(path, 'pre-trained encoder', hint)
            if is_plain_vit(backbone) and cfg.get('check_files', True):
                check_start(path, settings.get('prefix'), key)


def is_plain_vit(backbone: Mapping) -> bool:
    """Whether the names of a backbone's weights are those of mmpretrain's VisionTransformer."""
    kind = getattr(kind := backbone.get('type'), '__name__', kind)
    plain = ('MIRLViT', 'MIRLDenseViT', 'MAEViT', 'VisionTransformer')
    return str(kind).rpartition('.')[2] in plain


def set_work_dir(cfg: Config, work_dir: str | None = None) -> None:
    """Set ``cfg.work_dir``, make the folder and prove that it can be written."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    check_folder(cfg.work_dir, '--work-dir')


def set_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set what a run starts from.

    ``resume`` is 'last' (the newest whole checkpoint of ``cfg.work_dir``), 'auto' (the same, or
    where there is none a start from the config's own ``load_from``), a checkpoint, a work dir (its
    newest), or None.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    notes, found = [], resume
    if not (resume or cfg.get('resume')) and (Path(cfg.work_dir) / 'last_checkpoint').is_file():
        how = '--resume goes on with it, another --work-dir keeps it'
        notes.append(f'{cfg.work_dir} has checkpoints of an earlier run, written over now: {how}')
    folder = cfg.work_dir if resume in ('auto', 'last') else resume
    if folder and Path(folder).is_dir():
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
    if not cfg.get('resume'):
        backbone = (cfg.get('model') or {}).get('backbone') or {}
        if cfg.get('load_from') and is_plain_vit(backbone) and cfg.get('check_files', True):
            check_start(cfg.load_from, 'backbone.', 'load_from')
        return notes
    if Path(cfg.load_from).is_file() and not is_whole(cfg.load_from):
        raise ResumeError(f'{cfg.load_from} is cut short, or no checkpoint of a training run')
    return [*notes, f'resuming from {cfg.load_from}']
