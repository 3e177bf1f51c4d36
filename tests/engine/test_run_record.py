import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import mirl_mm
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.engine.run_facts import git_state

TINY = str(Path(__file__).parents[1] / 'data' / 'mae-tiny.py')


def test_a_run_leaves_its_record(tmp_path):
    for i in range(4):
        Image.new('RGB', (40, 40), (20 * i, 0, 0)).save(tmp_path / f'{i}.png')
    options = {
        'train_dataloader.dataset.data_root': str(tmp_path),
        'default_hooks.record': dict(type='RunRecordHook'),
        'experiment_name': tmp_path.name,
    }
    cfg, notes = training_config(TINY, work_dir=str(tmp_path / 'work'), cfg_options=options)
    runner = build_runner(cfg, notes)
    runner.train()
    record = json.loads((Path(runner.log_dir) / 'run.json').read_text())
    assert record['kind'] == 'train'
    assert record['config'] == TINY
    assert record['model'] == 'MAE' and record['encoder'] == 'MAEViT, 2 blocks of 16'
    assert (record['batch'], record['accumulation'], record['effective_batch']) == (2, 2, 4)
    assert (record['images'], record['epochs'], record['iterations']) == (4, 1, 2)
    assert record['trainable_parameters'] == 13392
    assert record['seed'] == 0
    assert record['versions']['mirl_mm'] == mirl_mm.__version__
    assert record['learning_rate'] == pytest.approx(0.0016)
    assert record['started'] < record['finished']
    assert record['seconds'] >= 0


def git(folder: Path, *arguments: str) -> None:
    who = ['-c', 'user.name=someone', '-c', 'user.email=someone@example.org']
    subprocess.run(['git', '-C', str(folder), *who, *arguments], check=True, capture_output=True)


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, 'init', '-b', 'trunk')
    for name in ('one.py', 'two.py'):
        (tmp_path / name).write_text('a = 1\n')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-m', 'first')
    state = git_state(tmp_path)
    assert len(state['commit']) == 40
    assert (state['branch'], state['changed']) == ('trunk', [])
    (tmp_path / 'one.py').write_text('a = 2\n')
    (tmp_path / 'new.py').touch()  # not tracked: no part of what was run, or no change of it
    assert git_state(tmp_path)['changed'] == ['one.py']
    below = tmp_path / 'site-packages'
    below.mkdir()
    assert git_state(below) is None
