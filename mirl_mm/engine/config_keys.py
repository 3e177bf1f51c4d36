"""The closed set of names that a config may define at its top level, and what each is for.

MMEngine adds a misspelt key to the config without a word and then never reads it. Here it fails.
"""

from collections.abc import Mapping

from mirl_mm.errors import UserError, did_you_mean

TRAINED_KEYS = frozenset({
    'model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper',
    'param_scheduler', 'randomness', 'custom_hooks', 'sync_bn', 'efficient_conv_bn_eval',
    'strategy',
})  # fmt: skip
"""Keys that decide what is trained: where a resumed run differs in them, it says so."""

RUNNER_KEYS = TRAINED_KEYS | frozenset({
    'work_dir', 'val_dataloader', 'test_dataloader', 'val_cfg', 'test_cfg', 'auto_scale_lr',
    'val_evaluator', 'test_evaluator', 'default_hooks', 'load_from', 'resume', 'launcher',
    'env_cfg', 'log_processor', 'log_level', 'visualizer', 'default_scope', 'experiment_name',
    'model_wrapper_cfg', 'find_unused_parameters', 'activation_checkpointing', 'compile',
    'runner_type', 'custom_imports',
})  # fmt: skip
"""Keys that have an effect: arguments of MMEngine's Runner, and what it reads from the config."""

HELPER_KEYS = frozenset({
    'backend_args', 'base_lr', 'crop_size', 'data_root', 'dataset_type', 'image_size', 'max_epochs',
    'max_iters', 'metainfo', 'norm_cfg', 'num_classes', 'train_pipeline', 'val_pipeline',
    'test_pipeline', 'tta_model', 'tta_pipeline', 'vis_backends',
})  # fmt: skip
"""Variables that config files of OpenMMLab share with the files that inherit from them."""

# The sections that MMEngine reads with ``get``, so that it never notices a misspelt key in them.
_SECTIONS = dict(
    env_cfg={'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    auto_scale_lr={'enable', 'base_batch_size', 'base_lr'},
)


def check_keys(cfg: Mapping) -> None:
    """UserError for a top-level key that nothing reads, or a section's key of that kind.

    Names that start with an underscore are the config author's own variables.
    """
    known = RUNNER_KEYS | HELPER_KEYS
    for key in cfg:
        if key not in known and not key.startswith('_'):
            raise UserError(
                f'unknown config key {key!r}{did_you_mean(key, known)}; accepted are '
                f'{", ".join(sorted(RUNNER_KEYS))}, the helper variables '
                f'{", ".join(sorted(HELPER_KEYS))} and names that start with an underscore'
            )
    for section, accepted in _SECTIONS.items():
        for key in (cfg.get(section) or {}).keys() - accepted:
            raise UserError(
                f'unknown config key {section}.{key}{did_you_mean(key, accepted)}; '
                f'accepted are {", ".join(sorted(accepted))}'
            )


def check_options(cfg: Mapping, options: Mapping[str, object]) -> None:
    """UserError for a ``--cfg-options`` key that cannot have the wanted effect.

    ``cfg`` is as its file says, before the options {dotted path: value} are merged.
    """
    for path in options:
        given, (first, *others) = f'--cfg-options {path}=...', path.split('.')
        if first in HELPER_KEYS or first.startswith('_'):
            raise UserError(
                f'{given} would have no effect: {first!r} is a helper variable, already copied to '
                'where the config file uses it; set the key there, as in '
                'train_dataloader.dataset.data_root=...'
            )
        if first not in RUNNER_KEYS:
            raise UserError(
                f'{given}: unknown config key {first!r}{did_you_mean(first, RUNNER_KEYS)}; '
                f'accepted are {", ".join(sorted(RUNNER_KEYS))}'
            )
        # A new last key is usual (a constructor rejects it if it is wrong). A new section that
        # is nearly an existing one is a slip that would leave the existing one as it was.
        node = cfg.get(first)
        for section in others[:-1]:
            if not isinstance(node, Mapping):
                break
            if section not in node and (near := did_you_mean(section, node, cutoff=0.8)):
                raise UserError(f'{given}: the config has no {section!r} there{near}')
            node = node.get(section)
