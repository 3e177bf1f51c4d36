"""tools/knn.py and tools/probe_depth.py from the command line."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.class_folders import MAE, MIRL, write_checkpoint, write_classes, write_config
from tests.processes import run_forked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """A folder with config, checkpoint and images."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / 'mirl.pth', write_config(tmp_path / 'mirl.py', MIRL))
    write_config(tmp_path / 'deep.py', MAE, **{"'num_layers': 4": "'num_layers': 6"})
    write_classes(tmp_path / 'data/train', count=3)
    write_classes(tmp_path / 'data/val', count=3, seed=1)
    write_classes(tmp_path / 'data/other', ('blue', 'red', 'grey'))
    return tmp_path


@pytest.fixture
def tool(monkeypatch, capsys):
    def tool(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', [name, *arguments])
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        return capsys.readouterr().out

    return tool


FOLDERS = ['--train', 'data/train', '--val', 'data/val', '--workers', '0']
OTHER = ['--train', 'data/other', '--val', 'data/other']


def test_knn_prints_and_writes(setting, tool):
    out = tool(
        'knn.py', 'mirl.py', 'mirl.pth', *FOLDERS, '--k', '1', '3', '--out', 'results/knn.json'
    )
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ['k=1', 'k=3'],
        ['cls', '100.00', '100.00'],
        ['avg', '100.00', '100.00'],
    ]
    result = json.loads((setting / 'results/knn.json').read_text())
    assert result['top1'] == dict(cls_k1=100, cls_k3=100, avg_k1=100, avg_k3=100)
    assert (result['settings']['train_images'], result['settings']['val_images']) == (9, 9)
    few = ('--k', '3', '--limit', '1', '--val-limit', '2', '--out', 'few.json')
    tool('knn.py', 'mirl.py', 'mirl.pth', *FOLDERS, *few)
    result = json.loads((setting / 'few.json').read_text())['settings']
    assert (result['train_images'], result['val_images']) == (3, 6)


def test_knn_takes_the_configs_folders(setting, tool):
    (setting / 'own.py').write_text("""
_base_ = 'mirl.py'
train_dataloader = dict(dataset=dict(data_root='data', data_prefix='train'))
test_dataloader = dict(dataset=dict(
    data_root='data', data_prefix='val', pipeline={{_base_.test_pipeline}}))
""")
    assert 'avg  100.00' in tool('knn.py', 'own.py', 'mirl.pth', '--k', '2', '--workers', '0')


def test_knn_leaves_out_default_ks_that_do_not_fit(setting, tool):
    out = tool('knn.py', 'mirl.py', 'mirl.pth', *OTHER, '--workers', '0').splitlines()
    assert out[-4] == 'k-NN without k = 20, 100, 200: there are 12 training images'
    assert [line.split()[0] for line in out[-3:]] == ['k=10', 'cls', 'avg']


def test_probe_depth_writes_its_files(setting, tool):
    with pytest.raises(SystemExit, match='at least 10 training images, got 9'):
        tool('probe_depth.py', 'mirl.py', 'mirl.pth', *FOLDERS, '--k', '2')
    folders = ['--train', 'data/other', '--val', 'data/other', '--workers', '0']
    out = tool(
        'probe_depth.py', 'mirl.py', 'random', 'mirl.pth', *folders, '--every', '2', '--k', '2',
        '--out', 'depth', '--labels', 'before', 'after',
    )  # fmt: skip
    assert 'after, classify, block 4 of 4, pool avg: knn 100, linear 100' in out
    assert 'after, classify, 2-NN accuracy (%), pool avg: best behind block 2 of 4, 100.00' in out
    assert {path.name for path in (setting / 'depth').iterdir()} == {
        'depth.csv', 'depth.json', 'depth.png', 'cache',
    }  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('knn.py', ['mirl.py', 'mirl.pth'], 'names no images: give class folders with --train'),
        (
            'knn.py',
            ['mirl/vit-test_2e', 'mirl.pth'],
            'names no images that are there (data/scenes/images/train, data/scenes/images/val)',
        ),
        ('knn.py', ['deep.py', 'mirl.pth', *FOLDERS], 'of another arch: it lacks'),
        ('knn.py', ['mirl.py', 'none.pth', *FOLDERS], 'no checkpoint at none.pth'),
        ('knn.py', ['mirl.py', 'mirl.py', *FOLDERS], 'mirl.py is not a checkpoint'),
        ('knn.py', ['mirl.py', 'mirl.pth', *FOLDERS], '--k is 10; accepted are 1 to 9, the number'),
        ('knn.py', ['mirl.py', 'mirl.pth', *FOLDERS, '--k', '3', '200'], '--k is 200; accepted'),
        ('knn.py', ['mirl.py', 'mirl.pth', *FOLDERS, '--k', '1', '--temperature', '0'], 'above 0'),
        (
            'knn.py',
            ['mirl.py', 'mirl.pth', '--train', 'data/train', '--val', 'data/other', '--k', '1'],
            'green only in data/train; grey only in data/other',
        ),
        ('knn.py', ['mirl.py', 'mirl.pth', *FOLDERS, '--k', '1', '--out', 'data'], 'is a folder'),
        (
            'knn.py',
            ['mirl.py', 'mirl.pth', *FOLDERS, '--k', '1', '--out', 'mirl.py/knn.json'],
            'cannot write to mirl.py (',
        ),
        (
            'probe_depth.py',
            ['mirl.py', 'mirl.pth', *OTHER, '--k', '1', '--out', 'mirl.py'],
            'cannot write to mirl.py (',
        ),
        ('probe_depth.py', ['mirl.py', 'mirl.pth', *FOLDERS, '--every', '9'], 'every must be'),
        ('probe_depth.py', ['mirl.py', 'mirl.pth'], 'the task classify needs --train'),
        (
            'probe_depth.py',
            ['mirl.py', 'mirl.pth', *OTHER, '--k', '1', '--shots', '5'],
            '--shots is 5; accepted are 1 to 4, the training images of the class blue',
        ),
        ('probe_depth.py', ['deep.py', 'mirl.pth', *FOLDERS], 'of another arch: it lacks'),
    ],
)
def test_errors_are_one_line(setting, tool, name, arguments, message):
    with pytest.raises(SystemExit) as stop:
        tool(name, *arguments)
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code


def test_two_processes_find_what_one_finds(setting, tool):
    arguments = ['mirl.py', 'mirl.pth', '--train', 'data/train', '--val', 'data/noise', '--workers',
                 '0', '--k', '1', '4', '9']  # fmt: skip
    write_noise(setting / 'data/noise')
    tool('knn.py', *arguments, '--out', 'one.json')
    more = ('--out', 'two.json', '--batch-size', '2')
    first, second = run_forked('knn.py', *arguments, *more, cwd=setting, processes=2)
    assert first.count('k=9') == 1 and 'k=9' not in second
    one, two = (json.loads(Path(name).read_text())['top1'] for name in ('one.json', 'two.json'))
    assert one == two
    assert len(set(one.values())) > 1


def write_noise(root: Path) -> None:
    """Five images of random colours in three classes: an odd number, not all classified right."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i, name in enumerate(('blue', 'green', 'red', 'blue', 'green')):
        (root / name).mkdir(parents=True, exist_ok=True)
        colour = rng.integers(0, 255, 3, dtype=np.uint8)
        Image.fromarray(np.tile(colour, (20, 20, 1))).save(root / name / f'{i}.png')
