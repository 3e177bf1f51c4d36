import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.fsdp import FullyShardedDataParallel

from mirl_mm.engine.hooks import KNNHook
from mirl_mm.engine.launch import build_runner, training_config
from tests.class_folders import write_classes

TINY = str(Path(__file__).parents[1] / 'data' / 'mae-tiny.py')


@pytest.fixture
def run(tmp_path):
    """Trains the tiny MAE on 12 images; returns the runner."""
    folders = dict(
        train=write_classes(tmp_path / 'train'), val=write_classes(tmp_path / 'val', seed=1)
    )

    def run(name: str, hook: dict | None, **options):
        options = {
            'experiment_name': f'{tmp_path.name}{name}',
            'train_dataloader.dataset.data_root': folders['train'],
            'default_hooks.checkpoint.interval': 10,
            **options,
        }
        knn = [] if hook is None else [dict(type='KNNHook', num_workers=0, **folders) | hook]
        options['custom_hooks'] = knn
        cfg, _ = training_config(TINY, work_dir=str(tmp_path / name), cfg_options=options)
        runner = build_runner(cfg)
        runner.train()
        return runner

    return run


def rows(runner) -> list[dict]:
    log = next(Path(runner.work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_other_epoch_and_at_both_ends(run):
    runner = run(
        'epochs', dict(interval=2, at_start=True, ks=(1, 3)), **{'train_cfg.max_epochs': 3}
    )
    found = [row for row in rows(runner) if 'knn/cls_k1' in row]
    assert [row['step'] for row in found] == [0, 2, 3]
    assert all(row['knn/avg_k3'] == 100 for row in found)  # the classes are colours
    assert found[0].keys() == {'knn/cls_k1', 'knn/cls_k3', 'knn/avg_k1', 'knn/avg_k3', 'step'}
    log = Path(runner.logger.log_file).read_text()
    assert 'epoch 3  knn/cls_k1: ' in log
    assert runner.model.backbone.training


def test_by_iterations(run):
    options = {
        'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=5),
        'train_dataloader.sampler': dict(_delete_=True, type='InfiniteSampler'),
        'param_scheduler': None,
    }
    runner = run('iterations', dict(interval=3, ks=(1,)), **options)
    assert [row['step'] for row in rows(runner) if 'knn/cls_k1' in row] == [3, 5]


def test_ks_that_12_images_do_not_allow_are_left_out(run):
    runner = run('few', {}, **{'train_cfg.max_epochs': 1})
    (found,) = [row for row in rows(runner) if 'knn/cls_k10' in row]
    assert found.keys() == {'knn/cls_k10', 'knn/avg_k10', 'step'}
    word = 'WARNING - k-NN without k = 20, 100, 200: there are 12 training images'
    assert word in Path(runner.logger.log_file).read_text()


def test_training_and_validation_images_have_limits_of_their_own(run):
    hook = dict(limit=2, val_limit=3, ks=(1,))
    runner = run('limits', hook, **{'train_cfg.max_epochs': 1})
    (knn,) = (each for each in runner.hooks if isinstance(each, KNNHook))
    assert [len(each) for each in knn.sets] == [6, 9]
    names = [Path(knn.sets[0].get_data_info(i)['img_path']).name for i in range(6)]
    assert names == ['0.png', '2.png'] * 3


def test_training_does_not_notice(run):
    hook = dict(interval=1, at_start=True, ks=(1,), num_workers=1)
    runs = [run(name, h, **{'train_cfg.max_epochs': 2}) for name, h in (('a', None), ('b', hook))]
    losses = [[row['loss'] for row in rows(r) if 'loss' in row] for r in runs]
    assert len(losses[0]) == 12
    assert losses[0] == losses[1]
    weights = [r.model.state_dict() for r in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_settings_that_do_not_fit_stop_at_the_start(run):
    accepted = 'accepted are 1 to 12, the number of training images'
    with pytest.raises(ValueError, match=f'^ks of KNNHook is 100; {accepted}$'):
        run('k', dict(ks=(10, 100)))
    with pytest.raises(FileNotFoundError, match='no such folder of class folders: nowhere'):
        run('folder', dict(val='nowhere'))
    sharded = SimpleNamespace(model=object.__new__(FullyShardedDataParallel))
    with pytest.raises(ValueError, match='which FSDP shards'):
        KNNHook('a', 'b').before_train(sharded)
    with pytest.raises(ValueError, match='interval must be at least 1, got 0'):
        KNNHook('a', 'b', interval=0)
