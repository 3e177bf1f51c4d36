"""What a run goes on from: the newest whole checkpoint, what of it fits, what changed, what stays.

A run goes on to the bit where its checkpoint is of the same settings; loops.py does the rest.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mirl_mm.checkpoint.config_text import read_config
from mirl_mm.checkpoint.loading import check_pairing, check_whole, naming, part_taken
from mirl_mm.checkpoint.reading import check_finite, class_names
from mirl_mm.checkpoint.safety import BROKEN
from mirl_mm.errors import CheckpointError, ResumeError
from mirl_mm.models.archs import EncoderArch, check_same, expect
from mirl_mm.models.fit import difference, shapes
from mirl_mm.models.segments import strip_wrappers, unwrapped

from .class_names import compare_names, follow_names
from .loops import ExactLoop
from .machine import has_accelerator, set_threads
from .run_facts import accumulation_of, batch_size
from .seeding import SeededLoader

# Keys of a config that decide what is trained: where a resumed run differs in them, it says so.
TRAINED_KEYS = {
    'model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper',
    'param_scheduler', 'randomness', 'custom_hooks', 'sync_bn', 'efficient_conv_bn_eval',
    'strategy',
}  # fmt: skip
# Settings whose effect is part of the checkpoint's state, which goes on.
_STORED = {
    r'optim_wrapper\.(optimizer|paramwise_cfg|constructor)': "the optimizer's state goes on",
    'param_scheduler': 'the schedule goes on as it was',
    'randomness': "the checkpoint's seed stays",
}
_LAYOUT = dict(
    processes='processes', threads='threads', batch_size='images of a process in an iteration',
    accumulation='iterations for an update', epoch_length='iterations of an epoch',
)  # fmt: skip


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Store with every checkpoint what an exact continuation needs, and look at it on resume.

    Another model, optimizer or kind of loop is a ResumeError that names the settings that differ,
    and so are weights alone. Other differing settings are listed, each with what comes of it. On
    another number of processes or another batch the run goes on at the same place of its schedule,
    and says what cannot be exact.

    ``whole`` refuses a checkpoint that is not all of the model, as an encoder lacks the heads, or
    was trained on other classes than the test data have: tools/test.py sets it. A training run may
    well start from a part; it says what stays as before.
    """

    priority = 'VERY_HIGH'  # before other hooks load their part of the checkpoint
    stored: dict | None = None

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['run'] = layout(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta, path = checkpoint.get('meta') or {}, runner._load_from
        model = unwrapped(runner.model)
        own = {short: name for name, short in strip_wrappers(model.state_dict()).items()}
        state = checkpoint.get('state_dict', checkpoint)
        for name, short in strip_wrappers(shapes(state)).items():  # MMEngine strips module. alone
            if short != name and short in own:
                state[own[short]] = state.pop(name)
        check_finite(state, path)
        if self.whole:
            check_whole(model, state, path)
            with naming(path):
                check_pairing(model, meta)
            self.compare_classes(runner, class_names(meta))
        if not runner._resume:
            averaged = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
            for each in (model, *map(unwrapped, averaged)):
                with naming(path):
                    expect(getattr(each, 'backbone', None), EncoderArch.of_meta(meta), 'this model')
            if not self.whole and (note := part_taken(model, state, path)):
                runner.logger.warning(note)
            return
        missing = {'optimizer', 'message_hub'} - checkpoint.keys() | {'iter', 'epoch'} - meta.keys()
        if missing:
            lacks = f'no state to resume from ({", ".join(sorted(missing))} missing)'
            how = 'to start from its weights, give it as load_from, without --resume'
            raise ResumeError(f'{path} holds {lacks}; {how}')
        self.stored = meta.get('run') or {}
        changed = []
        with suppress(SyntaxError):
            changed = differences(meta.get('cfg', ''), runner.cfg.pretty_text)
        if reason := why_not(runner, checkpoint, self.stored):
            parts = ('model', 'optim_wrapper', 'train_cfg')
            named = '; '.join(text for text, _ in changed if text.startswith(parts))
            listed = named and f'. Settings that differ: {named}'
            raise ResumeError(f'cannot resume from {path}: {reason}{listed}')
        if changed:
            lines = [f'  {text} ({why or "takes effect"})' for text, why in changed]
            runner.logger.warning(f'{path} was written with other settings:\n' + '\n'.join(lines))

    def compare_classes(self, runner: Runner, there: list[str]) -> None:
        """Refuse test data with other classes than ``there``; those in another order are mapped."""
        here = class_names(getattr(runner.test_loop.dataloader.dataset, 'metainfo', None))
        reason, in_order_alone = compare_names(there, here)
        if in_order_alone:
            follow_names(unwrapped(runner.model), there, here)
            runner.logger.warning(f'{reason}; mapped by their names')
        elif reason:
            raise CheckpointError(f'{runner._load_from} cannot be tested on these data: {reason}')

    def before_train(self, runner: Runner) -> None:
        arch = EncoderArch.of_module(getattr(unwrapped(runner.model), 'backbone', None))
        size = batch_size(runner.train_dataloader) * arch.positions * arch.embed_dims if arch else 0
        for note in set_threads(size, (self.stored or {}).get('threads')):  # they order the sums
            runner.logger.warning(note)
        loop, now = runner.train_loop, layout(runner)
        if not isinstance(loop, ExactLoop):
            what = f'a run of {type(loop).__name__} cannot be resumed to the bit'
            runner.logger.warning(f'{what}: give train_cfg.type=ExactEpochLoop or ExactIterLoop')
        if not self.stored:
            return
        if (seed := self.stored.get('sampler_seed')) is not None:  # drawn where none is set
            sampler_of(runner.train_dataloader).seed = seed
        changed = [key for key in _LAYOUT if self.stored.get(key) not in (None, now[key])]
        if changed:
            told = [f'{_LAYOUT[key]}: {self.stored[key]}, now {now[key]}' for key in changed]
            runner.logger.warning(
                f'this run goes on, but not to the bit: {"; ".join(told)}. Weights, optimizer, '
                'averages, seed and learning rate are kept. What cannot be exact: which images '
                'share a batch, the masks, drop paths and mixes of a process, the order of sums.'
            )
        old, new = self.stored.get('epoch_length'), now['epoch_length']
        if isinstance(loop, EpochBasedTrainLoop) and old not in (None, new):
            move_to_length(runner, old, new)
            place = f'iteration {loop.iter} of {loop.max_iters}, at the same place of the schedule'
            runner.logger.warning(f'an epoch had {old} iterations, now {new}: going on at {place}')


def layout(runner: Runner) -> dict[str, int | str | bool | None]:
    """What has to be equal for a continuation to be exact, beside the config."""
    wrapper, loader = runner.optim_wrapper, runner.train_dataloader
    return dict(
        processes=get_world_size(),
        threads=None if has_accelerator() else torch.get_num_threads(),
        batch_size=batch_size(loader),
        accumulation=accumulation_of(wrapper),
        epoch_length=len(loader),
        by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
        optimizer=type(getattr(wrapper, 'optimizer', wrapper)).__name__,
        sampler_seed=getattr(sampler_of(loader), 'seed', None),
        pairing=getattr(getattr(unwrapped(runner.model), 'head', None), 'pairing', None),
    )


def sampler_of(loader: SeededLoader) -> object:
    """What decides the order of the training images."""
    return getattr(loader.batch_sampler, 'sampler', loader.batch_sampler)


def why_not(runner: Runner, checkpoint: dict, stored: Mapping) -> str:
    """Why a run cannot go on from a checkpoint, which ``stored`` this layout; empty if it can."""
    model, state = unwrapped(runner.model), checkpoint['state_dict']
    clean = {short: state[name] for name, short in strip_wrappers(state).items()}
    if reason := difference(shapes(clean), shapes(model.state_dict()), 'this model'):
        return f'its weights do not fit, {reason}'
    given, encoder = EncoderArch.of_meta(checkpoint['meta']), getattr(model, 'backbone', None)
    try:
        check_same(given, EncoderArch.of_module(encoder), 'this model')
        check_pairing(model, checkpoint['meta'])
    except CheckpointError as error:
        return str(error)
    here = class_names(getattr(runner.train_dataloader.dataset, 'metainfo', None))
    if reason := compare_names(class_names(checkpoint['meta']), here)[0]:
        return reason
    state, wrapper = checkpoint['optimizer'], runner.optim_wrapper
    if 'param_groups' in state and hasattr(wrapper, 'optimizer'):
        kind = type(wrapper.optimizer).__name__
        if stored.get('optimizer', kind) != kind:
            return f'its optimizer is {stored["optimizer"]}, and this one {kind}'
        both = state['param_groups'], wrapper.optimizer.param_groups
        old, new = ([len(group['params']) for group in groups] for groups in both)
        if old != new:
            here = f'this one {len(new)} of {sum(new)}, or in another order'
            return f'its optimizer has {len(old)} groups of {sum(old)} parameters, and {here}'
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    if stored.get('by_epoch', by_epoch) != by_epoch:
        kinds = ('iterations', 'epochs')
        return f'it was trained by {kinds[not by_epoch]}, and this run counts {kinds[by_epoch]}'
    return ''


def move_to_length(runner: Runner, old: int, new: int) -> None:
    """Keep the epoch and the place in it where an epoch has another number of iterations.

    Schedules in epochs are those of the new length from here on; the rate itself does not jump.
    """
    loop = runner.train_loop
    within = loop._iter - loop._epoch * old
    loop._iter = loop._epoch * new + within * new // old
    settings, schedulers = runner.cfg.get('param_scheduler'), runner.param_schedulers
    settings = settings if isinstance(settings, list) else [settings]
    if isinstance(schedulers, list) and len(schedulers) == len(settings):
        groups = runner.optim_wrapper.optimizer.param_groups
        values = [dict(group) for group in groups]
        fresh = runner.build_param_scheduler(settings)
        for group, value in zip(groups, values, strict=True):
            group.update(value)  # a new schedule has set its first rate
        for i, (setting, scheduler) in enumerate(zip(settings, fresh, strict=True)):
            if setting.get('convert_to_iter_based'):
                for count in ('last_step', '_global_step'):
                    setattr(scheduler, count, getattr(schedulers[i], count) * new // old)
                schedulers[i] = scheduler
    runner.optim_wrapper.initialize_count_status(runner.model, loop._iter, loop._max_iters)


def is_whole(path: str | Path) -> bool:
    """Whether a torch file is complete: its table of contents stands at the end."""
    with suppress(OSError, BadZipFile, RuntimeError, *BROKEN), ZipFile(path) as file:
        return bool(file.namelist())
    return False


def find_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a work dir, and what to say about those passed over.

    The file that ``last_checkpoint`` names comes first, then the others, newest first. None where
    there is no checkpoint at all; a ResumeError where all of them are cut short.
    """
    work_dir = Path(work_dir)
    kind = re.compile(r'(epoch|iter)_[0-9]+\.pth')
    others = [path for path in work_dir.glob('*.pth') if kind.fullmatch(path.name)]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    candidates, notes = others, []
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file() and (named := pointer.read_text(errors='replace').strip()):
        path = Path(named)  # (that of the old place, where the work dir was moved)
        path = path if path.is_file() else work_dir / path.name
        candidates = [path, *(other for other in others if other != path)]
    for path in candidates:
        if is_whole(path):
            return path, notes
        notes.append(f'{path} is {"cut short" if path.is_file() else "gone"}: passing over it')
    if names := ', '.join(path.name for path in candidates):
        needed = 'a whole one is needed, or another --work-dir to start anew'
        lost = f'{names} are cut short or gone; {needed}'
        raise ResumeError(f'no checkpoint in {work_dir} can be read: {lost}')
    return None, notes


def differences(old: str, new: str) -> list[tuple[str, str]]:
    """Settings that two dumped configs do not share: (their description, why it has no effect).

    The second is empty where the new value takes effect. Only what decides what is trained.
    """
    before, now = (read_config(text, TRAINED_KEYS) for text in (old, new))
    found = []
    for path in sorted(before.keys() | now.keys()):
        left, right = before.get(path, 'not set'), now.get(path, 'not set')
        if left != right and not path.endswith('.pin_memory'):
            reason = next((why for key, why in _STORED.items() if re.match(key, path)), '')
            found.append((f'{path}: {left!r} there, {right!r} here', reason))
    return found
