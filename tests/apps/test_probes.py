import csv
import json

import pytest
import torch
from mmengine.config import Config

from mirl_mm.apps import probes
from mirl_mm.apps.probes import checkpoint_labels, probe_depth
from mirl_mm.measure import depth
from mirl_mm.measure.features import Loading
from tests.class_folders import MAE, MIRL, write_checkpoint, write_classes, write_config

LOADING = Loading(batch_size=5, num_workers=0)


@pytest.fixture
def setting(tmp_path):
    """(config, checkpoints of MIRL and MAE, class folders, out)."""
    config = write_config(tmp_path / 'mirl.py', MIRL)
    mae = write_config(tmp_path / 'mae.py', MAE)
    return (
        Config.fromfile(config),
        [
            write_checkpoint(tmp_path / 'mirl.pth', config),
            write_checkpoint(tmp_path / 'm.pth', mae),
        ],
        dict(
            train=write_classes(tmp_path / 'train', count=5),
            val=write_classes(tmp_path / 'val', count=5, seed=1),
        ),
        tmp_path / 'out',
    )


def test_two_methods_at_every_second_block(setting):
    cfg, checkpoints, folders, out = setting
    rows = probe_depth(
        cfg, checkpoints, **folders, out=out, every=2, labels=['MIRL', 'MAE'], k=3, loading=LOADING
    )
    assert [(row['label'], row['block'], row['pool']) for row in rows] == [
        ('MIRL', 2, 'avg'), ('MIRL', 4, 'avg'), ('MAE', 2, 'avg'), ('MAE', 4, 'avg'),
    ]  # fmt: skip
    assert all(row['knn'] == row['linear'] == 100 for row in rows)  # the classes are colours
    with (out / 'depth.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [float(row['knn']) for row in table] == [100.0] * 4
    result = json.loads((out / 'depth.json').read_text())
    assert result['rows'] == rows
    assert result['settings']['checkpoints'] == dict(zip(('MIRL', 'MAE'), checkpoints, strict=True))
    assert result['settings']['config'].endswith('mirl.py')
    assert {'date', 'hardware', 'versions'} <= result.keys()
    assert (out / 'depth.png').read_bytes().startswith(b'\x89PNG')


def test_features_are_computed_once_for_what_they_depend_on(setting, monkeypatch):
    cfg, checkpoints, folders, out = setting
    encoded = []
    real = depth.block_features

    def counted(vit, imgs, blocks):
        encoded.append(len(imgs))
        return real(vit, imgs, blocks)

    monkeypatch.setattr(depth, 'block_features', counted)
    monkeypatch.setattr(probes, 'draw_charts', lambda *_: None)  # which takes longest

    def run(*used, **settings):
        encoded.clear()
        rows = probe_depth(
            cfg, used, **folders, out=out, **{'k': 3, 'loading': LOADING, **settings}
        )
        return rows, sum(encoded)

    first, images = run(checkpoints[0])
    assert images == 30
    again, images = run(checkpoints[0], pools=['cls', 'avg'], k=2)
    assert images == 0  # both pools are there
    assert [row for row in again if row['pool'] == 'avg'] == first
    assert run(*checkpoints)[1] == 30  # the second alone
    assert run(checkpoints[0], every=2)[1] == 30
    assert run(checkpoints[0], limit=4)[1] == 24
    state = torch.load(checkpoints[0])
    state['state_dict']['backbone.cls_token'] += 1
    torch.save(state, checkpoints[0])  # same name, other content
    assert run(checkpoints[0])[1] == 30


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(k=16), '^--k is 16; accepted are 1 to 15, the number of training images$'),
        (dict(every=5), 'every must be between 1 and the depth 4, got 5'),
        (dict(labels=['a']), '2 checkpoints need as many different labels, got a'),
        (dict(labels=['a', 'a']), 'different labels, got a, a'),
        (dict(pools=['max']), r"pools must be some of cls, avg, got \['max'\]"),
        (dict(limit=0), 'limit must be at least 1'),
        (dict(limit=3, k=1), 'at least 10 training images, got 9'),
        (dict(train='missing'), 'no such folder of class folders: missing'),
    ],
)
def test_errors_come_before_any_work(setting, change, message):
    cfg, checkpoints, folders, out = setting
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        probe_depth(cfg, checkpoints, **{**folders, 'out': out, **change})
    assert not out.exists()


def test_bad_folders_and_checkpoints(setting, tmp_path):
    cfg, checkpoints, folders, out = setting
    other = write_classes(tmp_path / 'other', ('blue', 'green', 'grey'))
    with pytest.raises(ValueError, match=r'red only in .*train; grey only in .*other'):
        probe_depth(cfg, checkpoints, folders['train'], other, out)
    (tmp_path / 'val/empty').mkdir()
    with pytest.raises(ValueError, match='val has no image of the class empty'):
        probe_depth(cfg, checkpoints, **folders, out=out)
    cfg.model.backbone.arch.num_layers = 6
    cfg.model.backbone.num_segments = 2
    with pytest.raises(ValueError, match='of another arch'):
        probe_depth(cfg, checkpoints, **folders, out=out)
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at missing\.pth'):
        probe_depth(cfg, ['missing.pth'], **folders, out=out)


def test_labels():
    assert checkpoint_labels(['a/b/c.pth', 'random'], None) == ['b/c', 'random']
    assert checkpoint_labels(['c.pth', 'b/c.pth'], None) == ['c', 'b/c']
