import ast
import inspect

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mirl_mm.engine.checks.settings import (
    HELPER_KEYS,
    RUNNER_KEYS,
    check_keys,
    check_options,
    check_packages,
)
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError


def test_runner_keys_are_those_that_the_runner_reads():
    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    tree = ast.parse(inspect.getsource(inspect.getmodule(Runner)))
    read = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == 'self.cfg.get'
    }
    assert 'compile' in read
    others = {'runner_type', 'strategy', 'custom_imports', 'check_files'}
    others |= {'tta_model', 'tta_pipeline'}  # of tools/test.py --tta
    assert arguments | read | others == RUNNER_KEYS
    assert not RUNNER_KEYS & HELPER_KEYS


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'train_dataloder': {}}, "'train_dataloder' .did you mean 'train_dataloader'"),
        ({'optimizer': {}}, "unknown config key 'optimizer'"),
        ({'env_cfg': {'cudnn_benchmrk': True}}, "env_cfg.cudnn_benchmrk .*'cudnn_benchmark'"),
        ({'auto_scale_lr': {'base_batch': 4}}, "auto_scale_lr.base_batch .*'base_batch_size'"),
    ],
)
def test_misspelt_keys_fail(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_keys({'model': {}, **wrong})


@pytest.mark.parametrize(
    'wrong',
    [
        dict(base_lr=0, base_batch_size=4),
        dict(base_lr=1, base_batch_size=0),
        dict(base_lr=1, base_batch_size=None),
        dict(base_lr=1),
        dict(base_batch_size=-4),
    ],
)
def test_a_rate_that_is_meant_for_no_batch_fails(wrong):
    with pytest.raises(ValueError, match='auto_scale_lr: base_lr needs base_batch_size, both abo'):
        check_keys(dict(model={}, auto_scale_lr=wrong))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'randomness': {'sed': 1}}, "unknown config key randomness.sed .*'seed'"),
        ({'model': 'x'}, "model has to be a dict, or a list of dicts, got 'x'"),
        ({'train_dataloader': 3}, 'train_dataloader has to be a dict, .* got 3'),
        ({'train_cfg': {'max_epochs': 'a'}}, "train_cfg.max_epochs has to be a whole number.* 'a'"),
        ({'train_cfg': {'val_interval': 0.5}}, 'train_cfg.val_interval has to be a whole.* 0.5'),
        ({'randomness': {'seed': 'a'}}, "randomness.seed has to be a whole number, got 'a'"),
        ({'default_hooks': {'logger': None, 'checkpoint': {'interval': 'a'}}},
         "default_hooks.checkpoint.interval has to be a whole number, got 'a'"),
    ],
)  # fmt: skip
def test_values_that_are_read_late_are_looked_at_first(wrong, message):
    with pytest.raises(UserError, match=message):
        check_keys({'model': {}, **wrong})
    hooks = dict(default_hooks=dict(logger=dict(interval=5), finite=None), custom_hooks=[])
    right = dict(train_cfg=dict(max_iters=1e5, val_interval=1), resume=True, log_level='INFO')
    check_keys(dict(model={}, **hooks, **right))


def test_known_helper_and_private_keys_pass():
    check_keys({'model': {}, 'data_root': 'x', '_size': 3, 'env_cfg': None, 'auto_scale_lr': {}})


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('train_dataloder.batch_size', "did you mean 'train_dataloader'"),
        ('default_hooks.chekpoint.interval', "did you mean 'checkpoint'"),
        ('data_root', 'would have no effect'),
        ('_size', 'would have no effect'),
        ('custom_hooks.2.interval', 'custom_hooks is a list; accepted are 0 to 0, got 2'),
        ('custom_hooks.first.interval', 'custom_hooks is a list; accepted are 0 to 0, got first'),
        ('param_scheduler.0.end', 'the config has no list param_scheduler'),
        ('default_hooks.checkpoint.interval.x', "interval is 1, which has no 'x'"),
    ],
)
def test_options_without_the_wanted_effect_fail(path, message):
    hooks = dict(default_hooks=dict(checkpoint=dict(interval=1)), custom_hooks=[dict(type='A')])
    cfg = Config(dict(hooks, data_root='x', _size=1))
    with pytest.raises(ValueError, match=message):
        check_options(cfg, {path: 1})


def test_options_may_add_sections_and_reach_into_lists():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1)), custom_hooks=[dict(type='A')]))
    check_options(
        cfg,
        {
            'optim_wrapper.clip_grad.max_norm': 1,
            'optim_wrapper.optimizer.lr': 2,
            'custom_hooks.0.base_lr': 1,
            'sync_bn': 'torch',
        },
    )


def test_a_backend_whose_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr('mirl_mm.engine.checks.settings.find_spec', lambda name: None)
    check_packages(dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]))
    check_packages(None)
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    with pytest.raises(ValueError, match='needs the package tensorboard: pip install tensorboard'):
        check_packages(dict(type='Visualizer', vis_backends=backends))
    config = tmp_path / 'config.py'
    config.write_text(f'visualizer = dict(vis_backends={backends})\n')
    with pytest.raises(ValueError, match='needs the package tensorboard'):
        load_config(str(config))
    monkeypatch.setattr('mirl_mm.engine.checks.settings.find_spec', lambda name: object())
    check_packages(dict(type='Visualizer', vis_backends=backends))
