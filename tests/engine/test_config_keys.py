import ast
import inspect

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mirl_mm.engine.config_keys import HELPER_KEYS, RUNNER_KEYS, check_keys, check_options


def test_runner_keys_are_those_that_the_runner_reads():
    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    tree = ast.parse(inspect.getsource(inspect.getmodule(Runner)))
    read = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == 'self.cfg.get'
    }
    assert 'compile' in read
    assert arguments | read | {'runner_type', 'strategy', 'custom_imports'} == RUNNER_KEYS
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


def test_known_helper_and_private_keys_pass():
    check_keys({'model': {}, 'data_root': 'x', '_size': 3, 'env_cfg': None, 'auto_scale_lr': {}})


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('train_dataloder.batch_size', "did you mean 'train_dataloader'"),
        ('default_hooks.chekpoint.interval', "did you mean 'checkpoint'"),
        ('data_root', 'would have no effect'),
        ('_size', 'would have no effect'),
    ],
)
def test_options_without_the_wanted_effect_fail(path, message):
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(interval=1)), data_root='x', _size=1))
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
