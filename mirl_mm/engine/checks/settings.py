"""Settings that nothing would read, or that could not have the wanted effect.

MMEngine adds a misspelt key to the config without a word and then never reads it. Here it fails.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from inspect import signature

from mmengine.runner import Runner

from mirl_mm.errors import UserError, did_you_mean

from ..resume import TRAINED_KEYS

# What MMEngine's backends import when the first value comes, after everything has been built.
PACKAGES = ('tensorboard', 'wandb', 'mlflow', 'clearml', 'neptune', 'dvclive', 'aim')
# What has an effect at a config's top level: arguments of MMEngine's Runner, and what it reads.
RUNNER_KEYS = TRAINED_KEYS | signature(Runner.__init__).parameters.keys() - {'self', 'cfg'} | {
    'model_wrapper_cfg', 'find_unused_parameters', 'activation_checkpointing', 'compile',
    'runner_type', 'custom_imports', 'check_files', 'tta_model', 'tta_pipeline',
}  # fmt: skip
# Variables that config files of OpenMMLab share with the files that inherit from them.
HELPER_KEYS = {
    'backend_args', 'base_lr', 'crop_size', 'data_root', 'dataset_type', 'image_size', 'max_epochs',
    'max_iters', 'metainfo', 'norm_cfg', 'num_classes', 'train_pipeline', 'val_pipeline',
    'test_pipeline', 'vis_backends',
}  # fmt: skip
# Arguments that are dicts of settings, or lists of such.
SETTINGS = {
    name for name, each in signature(Runner.__init__).parameters.items()
    if name != 'cfg' and 'Dict' in str(each.annotation)
}  # fmt: skip
# Whole numbers that are read long after they have been built, and their sections.
WHOLE = dict.fromkeys(('max_epochs', 'max_iters', 'val_begin', 'val_interval'), 'train_cfg')
WHOLE |= dict(seed='randomness')
# The sections that MMEngine reads with ``get``, so that it never notices a misspelt key in them.
SECTIONS = dict(
    env_cfg={'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    auto_scale_lr={'enable', 'base_batch_size', 'base_lr'},
    randomness={'seed', 'diff_rank_seed', 'deterministic'},
)


def check_keys(cfg: Mapping) -> None:
    """UserError for a key that nothing reads, on top or in a section, or a rate without its batch.

    Names that start with an underscore are the config author's own variables.
    """
    known = RUNNER_KEYS | HELPER_KEYS
    for key in cfg:
        if key not in known and not key.startswith('_'):
            own, helpers = (', '.join(sorted(keys)) for keys in (RUNNER_KEYS, HELPER_KEYS))
            near = did_you_mean(key, known)
            more = f'the helper variables {helpers} and names that start with an underscore'
            raise UserError(f'unknown config key {key!r}{near}; accepted are {own}, {more}')
    for key in SETTINGS & cfg.keys():
        if isinstance(cfg[key], str | int | float):
            raise UserError(f'{key} has to be a dict, or a list of dicts, got {cfg[key]!r}')
    numbers = {f'{part}.{key}': (cfg.get(part) or {}).get(key) for key, part in WHOLE.items()}
    for name, hook in (cfg.get('default_hooks') or {}).items():
        numbers[f'default_hooks.{name}.interval'] = (hook or {}).get('interval')
    for key, value in numbers.items():
        if value is not None and (isinstance(value, str) or value % 1):
            raise UserError(f'{key} has to be a whole number, got {value!r}')
    for section, accepted in SECTIONS.items():
        for key in (cfg.get(section) or {}).keys() - accepted:
            near, names = did_you_mean(key, accepted), ', '.join(sorted(accepted))
            raise UserError(f'unknown config key {section}.{key}{near}; accepted are {names}')
    scaling = cfg.get('auto_scale_lr') or {}
    rule = {key: x for key, x in scaling.items() if key != 'enable' and x is not None}
    alone = 'base_lr' in rule and 'base_batch_size' not in rule
    if alone or any(not x > 0 for x in rule.values()):
        given = ', '.join(f'{key}={value}' for key, value in scaling.items())
        raise UserError(f'auto_scale_lr: base_lr needs base_batch_size, both above 0; got {given}')


def check_options(cfg: Mapping, options: Mapping[str, object]) -> dict[str, bool]:
    """UserError for a ``--cfg-options`` key that cannot have the wanted effect.

    ``cfg`` is as its file says, before the options {dotted path: value} are merged; returned are
    options to merge with them, so that a dict replaces a name (``arch.embed_dims`` over 'b12').
    """
    more = {}
    for path in options:
        given, (first, *others) = f'--cfg-options {path}=...', path.split('.')
        if first in HELPER_KEYS or first.startswith('_'):
            why = f'{first!r} is a helper variable, already copied to where the config file uses it'
            how = 'set the key there, as in train_dataloader.dataset.data_root=...'
            raise UserError(f'{given} would have no effect: {why}; {how}')
        if first not in RUNNER_KEYS:
            near, names = did_you_mean(first, RUNNER_KEYS), ', '.join(sorted(RUNNER_KEYS))
            raise UserError(f'{given}: unknown config key {first!r}{near}; accepted are {names}')
        # A new last key is usual (a constructor rejects it if it is wrong). A new section that
        # is nearly an existing one is a slip that would leave the existing one as it was.
        node, place = cfg.get(first), first
        for i, section in enumerate(others, 1):
            if isinstance(node, list | tuple):
                if not section.isdigit() or int(section) >= len(node):
                    numbers = f'accepted are 0 to {len(node) - 1}, got {section}'
                    raise UserError(f'{given}: {place} is a list; {numbers}')
                node = node[int(section)]
            elif node is None and section.isdigit():
                raise UserError(f'{given}: the config has no list {place}')
            elif isinstance(node, Mapping):
                near = did_you_mean(section, node, cutoff=0.8)
                if section not in node and near and i < len(others):
                    raise UserError(f'{given}: the config has no {section!r} there{near}')
                node = node.get(section)
            elif node is not None:
                if not isinstance(node, str):
                    raise UserError(f'{given}: {place} is {node!r}, which has no {section!r}')
                more[f'{place}._delete_'], node = True, None
            place += f'.{section}'
    return more


def check_packages(visualizer: Mapping | None) -> None:
    """UserError for a backend whose package is not installed."""
    for kind in [backend['type'] for backend in (visualizer or {}).get('vis_backends') or ()]:
        package = kind.removesuffix('VisBackend').lower()
        if package in PACKAGES and find_spec(package) is None:
            how = f'pip install {package}, or leave the backend out'
            raise UserError(f'visualizer.vis_backends: {kind} needs the package {package}: {how}')
