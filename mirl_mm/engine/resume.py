"""What a run can go on from: the newest whole checkpoint, and how its settings differ from ours."""

import ast
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.runner import Runner

from mirl_mm.errors import ResumeError

_NAMES = ('epoch_*.pth', 'iter_*.pth')

# Settings of MMEngine's config that do not change what is trained, or that start no run anew.
_IRRELEVANT = (
    'work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'log_processor', 'visualizer',
    'vis_backends', 'env_cfg', 'default_hooks', 'custom_imports', 'default_scope', 'val_', 'test_',
    'tta_', 'experiment_name', 'auto_scale_lr', 'runner_type', 'model_wrapper_cfg', 'metainfo',
    'train_pipeline', 'find_unused_parameters', 'activation_checkpointing', 'compile', 'norm_cfg',
    'backend_args', 'data_root', 'dataset_type', 'base_lr', 'max_epochs', 'max_iters', 'image_size',
    'crop_size', 'num_classes', 'train_dataloader.pin_memory', '_',
)  # fmt: skip
# Settings whose effect is part of the checkpoint's state, which goes on.
_STORED = {
    'optim_wrapper.optimizer': "the optimizer's state goes on",
    'optim_wrapper.paramwise_cfg': "the optimizer's state goes on",
    'optim_wrapper.constructor': "the optimizer's state goes on",
    'param_scheduler': 'the schedule goes on as it was',
    'randomness': "the checkpoint's seed stays",
}


def is_whole(path: str | Path) -> bool:
    """Whether a torch file is complete: its table of contents stands at the end."""
    try:
        with zipfile.ZipFile(path) as file:
            return bool(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def find_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a work dir, and what to say about those passed over.

    The file that ``last_checkpoint`` names comes first, then the others, newest first. None where
    there is no checkpoint at all.

    Raises:
        ResumeError: there are checkpoints, but all of them are cut short.
    """
    work_dir = Path(work_dir)
    others = [path for pattern in _NAMES for path in work_dir.glob(pattern)]
    others = [path for path in others if path.stem.partition('_')[2].isdecimal()]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    candidates, notes = [], []
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file() and (named := pointer.read_text().strip()):
        path = Path(named)
        if not path.is_file():  # the work dir was moved: the path in it is the old one
            path = work_dir / path.name
        candidates.append(path)
    candidates += [path for path in others if path not in candidates]
    for path in candidates:
        if is_whole(path):
            return path, notes
        notes.append(f'{path} is {"cut short" if path.is_file() else "gone"}: passing over it')
    if candidates:
        names = ', '.join(path.name for path in candidates)
        raise ResumeError(
            f'no checkpoint in {work_dir} can be read: {names} are cut short or gone; a whole one '
            'is needed, or another --work-dir to start anew'
        )
    return None, notes


def read_config(text: str) -> dict[str, object]:
    """A dumped config as {dotted path: value}, without running it; what is no literal stays text.

    Raises:
        SyntaxError: it is not Python.
    """
    flat: dict[str, object] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            flat.update(_flatten(node.targets[0].id, _value(node.value)))
    return flat


def differences(old: str, new: str) -> list[tuple[str, str]]:
    """Settings that two dumped configs do not share: (their description, why it has no effect).

    The second is empty where the new value takes effect. Names, logs, hooks of MMEngine's own,
    validation and the like are left out.
    """
    before, now = read_config(old), read_config(new)
    found = []
    for path in sorted(before.keys() | now.keys()):
        left, right = before.get(path, 'not set'), now.get(path, 'not set')
        if left == right or path.startswith(_IRRELEVANT):
            continue
        reason = next((why for start, why in _STORED.items() if path.startswith(start)), '')
        found.append((f'{path}: {left!r} there, {right!r} here', reason))
    return found


def misfit(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> str:
    """The first way in which weights do not fit a model; empty where they do."""
    own = model.state_dict()
    state = {name.removeprefix('module.'): tensor for name, tensor in state.items()}
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            sizes = [' x '.join(map(str, each.shape)) for each in (state[name], tensor)]
            return f'{name} is {sizes[0]} there and {sizes[1]} here'
    if missing := own.keys() - state.keys():
        return f'{len(missing)} weights are not in it, such as {min(missing)}'
    if unknown := state.keys() - own.keys():
        return f'{len(unknown)} of its weights are not in this model, such as {min(unknown)}'
    return ''


def move_to_length(runner: Runner, old: int, new: int) -> None:
    """Go on at the same place of the schedule where an epoch has another number of iterations.

    The epoch stays, and the place in it to within an iteration. Schedules that were given in
    epochs are those of the new length from here on; the rate itself does not jump.
    """
    loop = runner.train_loop
    within = loop._iter - loop._epoch * old
    loop._iter = loop._epoch * new + within * new // old
    settings = runner.cfg.get('param_scheduler')
    settings = settings if isinstance(settings, list) else [settings]
    schedulers = runner.param_schedulers
    if isinstance(schedulers, list) and len(schedulers) == len(settings):
        groups = runner.optim_wrapper.optimizer.param_groups
        values = [dict(group) for group in groups]
        fresh = runner.build_param_scheduler(settings)
        for group, value in zip(groups, values, strict=True):
            group.update(value)  # a new schedule has set its first rate
        for i, (setting, scheduler) in enumerate(zip(settings, fresh, strict=True)):
            if setting.get('convert_to_iter_based'):
                scheduler.last_step = schedulers[i].last_step * new // old
                scheduler._global_step = schedulers[i]._global_step * new // old
                schedulers[i] = scheduler
    runner.optim_wrapper.initialize_count_status(runner.model, loop._iter, loop._max_iters)


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {k.value: _value(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _flatten(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(f'{path}.{key}', inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, inner in enumerate(value):
            yield from _flatten(f'{path}.{i}', inner)
    else:
        yield path, value
