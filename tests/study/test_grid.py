"""The grid: what is declared, and that every run's commands are of ordinary configs."""

from argparse import ArgumentParser
from pathlib import Path

import pytest
from mmengine.config import DictAction

from benchmarks.study import grid
from benchmarks.study.grid import RUNS, chosen
from benchmarks.study.stages import LONG, TASKS, TUNED, Place, spec, stages, unfinished, written
from mirl_mm.engine.launch import load_config

CONFIGS = ('benchmarks/study/', 'configs/')
PLACE = Place(Path('work'), Path('data'))


def test_what_is_declared():
    runs = list(RUNS.values())
    tiny = [run for run in runs if run.grid == 'tiny' and run.rate == grid.RATE]
    kinds = {(run.method, run.depth, run.seed) for run in tiny if run.epochs == 10}
    assert kinds == {(m, d, s) for m in ('mirl', 'mae') for d in (12, 24, 48) for s in (0, 1, 2)}
    untrained = {(run.depth, run.seed) for run in runs if run.method == 'untrained'}
    assert untrained == {(d, s) for d in (12, 24, 48) for s in (0, 1, 2)}
    tries = [run for run in runs if run.grid == 'tiny' and run.epochs == 1]
    assert sorted((run.method, run.rate) for run in tries) == [
        (method, rate) for method in ('mae', 'mirl') for rate in (0.001, 0.002, 0.004, 0.008)
    ]
    assert len([run for run in runs if run.grid == 'camvid']) == 4 * 3
    assert list(RUNS)[:3] == ['tiny-mirl-12-10e-s0', 'tiny-mae-12-10e-s0', 'tiny-mirl-24-10e-s0']


def test_runs_by_their_names():
    assert [run.name for run in chosen(['tiny-*-12-10e-s0'])] == list(RUNS)[:2]
    assert chosen(None) == list(RUNS.values())
    with pytest.raises(ValueError, match='no run of the grid is called tiny-x: names are'):
        chosen(['tiny-mirl-12-10e-s0', 'tiny-x'])


def configs(run) -> dict:
    """The config of every stage that has one, with the grid's options merged."""
    found = {}
    for stage in stages(run, PLACE):
        config = next(word for word in stage.command if word.startswith(CONFIGS))
        given = stage.command[stage.command.index('--cfg-options') + 1 :]
        pairs = dict(each.split('=', 1) for each in given)
        options = {key: DictAction._parse_iterable(value) for key, value in pairs.items()}
        found[stage.name] = load_config(config, options)
    return found


def one_of_each_kind() -> list:
    kinds = {run._replace(seed=0): run for run in RUNS.values()}
    return list(kinds.values())


@pytest.mark.parametrize('run', one_of_each_kind(), ids=lambda run: run.name)
def test_every_stage_has_a_config_that_does_what_the_grid_says(run):
    found = configs(run)
    assert all(cfg.randomness.seed == run.seed for cfg in found.values())
    said = spec(run)
    for cfg in found.values():  # what rows say of the sizes
        arch = cfg.model.backbone.arch
        assert (arch.embed_dims, arch.num_layers) == (said['width'], said['depth'])
    if run.epochs:
        assert next(iter(found.values())).train_dataloader.batch_size == said['batch']
    if run.grid == 'tiny':
        assert list(found) == ['train', 'probe', 'measure']
    if run.grid == 'tiny' and run.epochs:
        cfg = found['train']
        assert cfg.model.type == dict(mirl='MIRL', mae='MAE')[run.method]
        assert cfg.optim_wrapper.optimizer.lr == run.rate
        rise, fall = cfg.param_scheduler
        assert cfg.train_cfg.max_epochs == run.epochs == fall.end
        assert rise.end == fall.begin == pytest.approx(run.epochs * 40 / 300, abs=1e-4)
        assert fall.T_max == pytest.approx(fall.end - fall.begin)
        assert cfg.train_dataloader.dataset.data_root == 'data/tiny_imagenet_100/'
    if run.grid == 'camvid':
        trained = (['pretrain'] if run.epochs else []) + ['all', 'few']
        assert [name for name in found if not name.endswith('-test')] == trained
        for name in trained:
            cfg = found[name]
            assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
            assert cfg.get('val_dataloader') is None
        assert found['all'].model.decode_head.num_classes == 11  # of CamVid
        length = LONG if run.method == 'scratch-long' else 600
        assert found['all'].train_cfg.max_iters == found['few'].train_cfg.max_iters == length
        few = found['few'].train_dataloader.dataset.indices
        assert list(few) == list(range(0, 367, 10)) and len(few) == 37
        assert 'indices' not in found['all'].train_dataloader.dataset
        start = found['few'].model.backbone.init_cfg
        assert (start is None) == (not run.epochs)


@pytest.mark.parametrize('method', ['mirl', 'mae', 'scratch'])
def test_what_the_demo_does_is_what_the_grid_runs(method):
    run = next(run for run in RUNS.values() if (run.grid, run.method) == ('demo', method))
    found = configs(run)
    demo = {name: load_config(config) for name, config in TASKS.items()}
    for task, cfg in demo.items():
        mine = found[task]
        for key in ('train_cfg', 'optim_wrapper', 'param_scheduler'):
            assert mine[key] == cfg[key]
        assert mine.train_cfg.max_iters == TUNED
        assert mine.train_dataloader.dataset.data_root == 'data/scenes/'
        start = mine.model.backbone.init_cfg
        where = f'work/{run.name}/pretrain/encoder.pth'
        assert start is None if method == 'scratch' else start.checkpoint == where
    if method == 'scratch':
        assert list(found) == list(TASKS)
        return
    assert list(found) == ['pretrain', *TASKS]
    own, cfg = load_config('configs/demo/mirl_12-blocks.py'), found['pretrain']
    for key in ('optim_wrapper', 'train_dataloader', 'backbone_arch'):
        sides = [c.model.backbone.arch if key == 'backbone_arch' else c[key] for c in (own, cfg)]
        assert sides[0] == sides[1], key
    assert cfg.optim_wrapper.optimizer.lr == run.rate
    if method == 'mirl':  # the longest is the demo's
        assert cfg.train_cfg.max_iters == own.train_cfg.max_iters == run.epochs * 2000 // 32
        assert cfg.param_scheduler == own.param_scheduler
    assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters


def test_options_survive_the_command_line():
    options = {'a.b': Path('/data/x'), 'c': [0, 10], 'd': 0.002, 'e': None}
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    found = parser.parse_args(written(options)).cfg_options
    assert found == options | {'a.b': '/data/x'}


def test_both_methods_are_trained_alike():
    configs_of = [configs(RUNS[f'tiny-{method}-24-10e-s1'])['train'] for method in grid.METHODS]
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness'):
        assert configs_of[0][key] == configs_of[1][key], key
    arch = [cfg.model.backbone.arch for cfg in configs_of]
    assert (
        arch[0]
        == arch[1]
        == dict(embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256)
    )


def test_a_run_goes_on_where_its_files_end(tmp_path):
    run, place = RUNS['tiny-mae-12-4e-s2'], Place(tmp_path, tmp_path)
    names = [stage.name for stage in stages(run, place)]
    for done in range(len(names)):
        assert [stage.name for stage in unfinished(run, place)] == names[done:]
        file = place.of(run) / stages(run, place)[done].made
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert unfinished(run, place) == []
