"""A checkpoint of another run: refused with what differs, or taken with what changes."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mirl_mm.engine.resume import ResumeError, differences

from .small import load, log_of, run, small_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group('faults')


def refused(undisturbed, images, tmp_path, by_epoch=True, **options) -> str:
    cfg = small_config(images, by_epoch=by_epoch, workers=0, **options)
    with pytest.raises(ResumeError) as stop:
        run(tmp_path / 'run', cfg, str(undisturbed / 'iter_12.pth'))
    assert '\n' not in str(stop.value)
    assert str(undisturbed / 'iter_12.pth') in str(stop.value)
    return str(stop.value)


@pytest.mark.parametrize(
    ('options', 'reason', 'differs'),
    [
        (
            {'model__backbone__arch__num_layers': 2},
            "its weights do not fit, it has 'backbone.layers.2.",
            'model.backbone.arch.num_layers: 4 there, 2 here',
        ),
        (
            {'model__neck__decoder_embed_dim': 12},
            "its weights do not fit, 'neck.",
            'model.neck.decoder_embed_dim: 8 there, 12 here',
        ),
        (
            {'model__backbone__arch__num_heads': 4},  # weights of the same shapes
            'heads',
            'model.backbone.arch.num_heads: 2 there, 4 here',
        ),
        (
            {'optim_wrapper__optimizer': dict(type='SGD', lr=0.1)},
            'its optimizer is AdamW, and this one SGD',
            "optim_wrapper.optimizer.type: 'AdamW' there, 'SGD' here",
        ),
        (
            {'optim_wrapper__paramwise_cfg__norm_decay_mult': 1.0},
            'its optimizer has 2 groups of',
            'optim_wrapper.paramwise_cfg.norm_decay_mult: 0.0 there, 1.0 here',
        ),
    ],
)
def test_another_model_or_optimizer(undisturbed, images, tmp_path, options, reason, differs):
    message = refused(undisturbed, images, tmp_path, **options)
    assert reason in message
    assert f'Settings that differ: {differs}' in message or f'; {differs}' in message


def test_another_kind_of_loop(undisturbed, images, tmp_path):
    message = refused(undisturbed, images, tmp_path, by_epoch=False)
    assert 'it was trained by epochs, and this run counts iterations' in message
    assert "train_cfg.type: 'ExactEpochLoop' there, 'ExactIterLoop' here" in message


def test_weights_alone(undisturbed, images, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=load(undisturbed / 'iter_12.pth')['state_dict']), path)
    with pytest.raises(ResumeError, match=r'holds no state .*\(epoch, iter, message_hub, optimi'):
        run(tmp_path / 'run', small_config(images, workers=0), str(path))


def test_the_tool_says_it_in_one_line(undisturbed, images, tmp_path, monkeypatch):
    cfg = small_config(images, workers=0, model__backbone__arch__num_layers=2)
    cfg.experiment_name = 'refused'
    cfg.dump(tmp_path / 'other.py')
    arguments = [tmp_path / 'other.py', '--work-dir', tmp_path, '--resume', undisturbed]
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert stop.value.code.startswith(f'error: cannot resume from {undisturbed}/iter_30.pth: ')
    assert 'arch.num_layers: 4 there, 2 here' in stop.value.code
    assert '\n' not in stop.value.code


def test_other_settings_are_listed_with_their_effect(undisturbed, images, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copy(undisturbed / 'iter_28.pth', folder)
    options = {
        'model__backbone__drop_path_rate': 0.1,
        'optim_wrapper__optimizer__lr': 1.0,
        'randomness__seed': 4,
    }
    runner = run(folder, small_config(images, workers=0, **options), 'last')
    log = log_of(runner)
    for line in (
        'model.backbone.drop_path_rate: 0.2 there, 0.1 here (takes effect)',
        "optim_wrapper.optimizer.lr: 0.02 there, 1.0 here (the optimizer's state goes on)",
        "randomness.seed: 3 there, 4 here (the checkpoint's seed stays)",
    ):
        assert f'\n  {line}\n' in log, line
    assert runner.seed == 3
    assert runner.optim_wrapper.get_lr()['lr'][0] < 2e-2


def test_what_does_not_matter_is_not_listed():
    old = "model = dict(a=1)\nwork_dir = 'x'\nlog_level = 'INFO'\nval_cfg = None\nx = dict(y=2)\n"
    new = "model = dict(a=1, b=f(3))\nwork_dir = 'z'\nval_cfg = dict()\nx = dict(y=2)\n"
    assert differences(old, old) == []
    assert differences(old, new) == [("model.b: 'not set' there, 'f(3)' here", '')]


def test_decoders_of_other_pairs(undisturbed, images, tmp_path):
    message = refused(undisturbed, images, tmp_path, model__head__pairing='none')
    assert "its decoders learnt with pairing='mirrored', not 'none'" in message
    assert "model.head.pairing: 'not set' there, 'none' here" in message
