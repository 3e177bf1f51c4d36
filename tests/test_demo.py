"""The demo on a few iterations; its real length is tried by `make demo`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mirl_mm.datasets.scene_set import write_scenes
from mirl_mm.demo import folder_options

ROOT = Path(__file__).parents[1]


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    options = ('train_cfg.max_iters=8', 'train_cfg.val_interval=4', 'train_dataloader.batch_size=4')
    return subprocess.run(
        [
            *(sys.executable, ROOT / 'tools/demo.py', '--work-dir', tmp_path / 'run'),
            *(*arguments, '--cfg-options', 'default_hooks.logger.interval=2', *options),
        ],
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> Path:
    """A user's folder, nested, with a broken file in it."""
    folder = tmp_path_factory.mktemp('pictures') / 'scenes'
    write_scenes(folder, 20, 4, size=64)
    (folder / 'images/train/broken.jpg').write_bytes(b'\xff\xd8 nothing more')
    return folder / 'images'


def test_a_users_pictures_become_a_curve_and_a_panel(tmp_path, pictures):
    done = demo(tmp_path, '--data', str(pictures))
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'iteration 8/8' in done.stdout
    written = dict(re.findall(r'^  (checkpoint|curve|panel) +(\S+)$', done.stdout, re.MULTILINE))
    assert set(written) == {'checkpoint', 'curve', 'panel'}
    assert Path(written['checkpoint']).name == 'iter_8.pth'
    assert Image.open(tmp_path / written['curve']).size == (960, 540)
    width, height = Image.open(tmp_path / written['panel']).size
    assert width > height > 900  # 11 columns, 8 rows
    assert len(done.stdout.splitlines()) < 60, 'the terminal keeps one screen'


def test_train_and_held_out_pictures_are_apart(tmp_path, pictures):
    options = folder_options(str(pictures), tmp_path)
    lists = {
        loader: Path(options[f'{loader}_dataloader.dataset.ann_file']).read_text().split()
        for loader in ('train', 'val', 'test')
    }
    assert lists['val'] == lists['test']
    assert len(lists['val']) == 8
    assert len(lists['train']) == 25 - 8
    assert not set(lists['train']) & set(lists['val'])
    assert all((pictures / name).is_file() for name in lists['train'] + lists['val'])


def test_too_few_pictures_and_no_folder_are_one_clear_line(tmp_path):
    write_scenes(tmp_path / 'few', 2, 2, size=64)
    few = demo(tmp_path, '--data', str(tmp_path / 'few/images'))
    assert few.returncode == 1
    assert few.stderr.splitlines()[-1] == (
        f'error: {tmp_path / "few/images"} holds 4 pictures; the demo needs at least 16, and some '
        'hundreds to learn from'
    )
    none = demo(tmp_path, '--data', str(tmp_path / 'none'))
    assert none.returncode == 1
    assert 'error: no such folder of images' in none.stderr.splitlines()[-1]
