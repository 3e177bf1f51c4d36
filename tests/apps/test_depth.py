import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mirl_mm.apps import depth as app
from mirl_mm.apps.depth import TAKES, checkpoint_labels, probe_depth, rows_of, summaries
from mirl_mm.measure import depth
from mirl_mm.measure.curves import Curve, mean, parts_of
from mirl_mm.measure.depth import SHARE
from mirl_mm.measure.features import Loading
from mirl_mm.pictures.charts import depth_charts
from tests.class_folders import MAE, MIRL, write_checkpoint, write_classes, write_config

LOADING = Loading(batch_size=5, num_workers=0)
VIT = SimpleNamespace(num_layers=5, embed_dims=16)  # what sentences need of one


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
    assert list(table[0])[:5] == ['label', 'task', 'block', 'pool', 'shots']
    assert {row['task'] for row in table} == {'classify'} and not table[0]['shots']
    assert [float(row['linear_error']) for row in table] == [0.0] * 4
    result = json.loads((out / 'depth.json').read_text())
    assert result['rows'] == rows
    found = [(each['label'], each['measure'], each['best_block']) for each in result['summary']]
    assert found == [(x, m, 2) for x in ('MIRL', 'MAE') for m in ('knn', 'linear')]
    assert result['summary'][0]['sentence'] == (
        'MIRL, classify, 3-NN accuracy (%), pool avg: best behind block 2 of 4, 100.00 +- 0.00; '
        'the last block has 100.00, 0.00 +- 0.00 less: no fall beyond its spread'
    )
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
    monkeypatch.setattr(app, 'draw_charts', lambda *_: None)  # which takes longest

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
    assert run(checkpoints[0], limit=4)[1] == 12  # validation is as it was
    assert run(checkpoints[0], limit=4, val_limit=4)[1] == 12
    assert run(checkpoints[0], shots=[1, 4], draws=2)[1] == 0
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
        (dict(val_limit=0), 'limit must be at least 1'),
        (
            dict(k=3, shots=[1, 6]),
            '^--shots is 6; accepted are 1 to 5, the training images of the class blue$',
        ),
        (dict(k=3, shots=[0]), '^--shots is 0; accepted are 1 to 5'),
        (dict(k=3, shots=[1], draws=1), '^--draws must be at least 2, since the spread is over'),
        (dict(tasks=[]), r'^tasks must be some of classify, segment, paint, rank, got \[\]$'),
        (dict(tasks=['sing']), r"rank, got \['sing'\]$"),
        (dict(val=None), '^the task classify needs --val$'),
        (dict(tasks=['rank'], val=None, train=None), '^the task rank needs --val$'),
        (dict(tasks=['rank', 'paint'], train=None), '^the task paint needs --train$'),
        (dict(tasks=['segment'], train=None, val=None), '^the task segment needs --segment-data$'),
        (dict(tasks=['rank']), '^--train is for classify and paint, but --tasks is rank$'),
        (dict(tasks=['paint'], k=20), '^--k is for classify, but --tasks is paint$'),
        (dict(tasks=['paint'], pools=['cls']), '^--pools is for classify, but --tasks is paint$'),
        (dict(paint_steps=9), '^--paint-steps is for paint, but --tasks is classify$'),
        (dict(k=3, loading=Loading(0, 1)), '^a batch size is 1 or more, .* got 0 and 1$'),
        (dict(k=3, loading=Loading(4, -1)), ' workers 0 or more; got 4 and -1$'),
        (dict(draws=5), '^--draws is for --shots, which is not given$'),
        (dict(segment_size=(8, 8)), '^--segment-size is for segment, but --tasks is classify$'),
        (
            dict(tasks=['paint', 'rank'], shots=[1]),
            '^--shots is for classify, but --tasks is paint, rank$',
        ),
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


def test_few_images_of_each_class_are_probed_too(setting):
    cfg, checkpoints, folders, out = setting
    how = dict(k=3, loading=LOADING, every=4, shots=[4, 1], draws=3)
    rows = probe_depth(cfg, checkpoints[:1], **folders, out=out, **how)
    assert [row.get('shots') for row in rows] == [None, 4, 1]
    assert [(row['knn'], row['knn_error']) for row in rows] == [(100, 0)] * 3  # colours
    assert rows[2]['penalty'] == pytest.approx(SHARE * 16 / 3)
    titles = [each['title'] for each in depth_charts(rows, 3)]
    assert titles[2] == '3-NN accuracy (%), 4-shot, by depth' and len(titles) == 6


@pytest.fixture
def others(monkeypatch) -> list:
    """Stand-ins for the other tasks; what they were called with."""
    called = []

    def curves(name, less=False):
        values = torch.tensor([[1.0, 4.0, 2.0, 3.0]]) + torch.linspace(-0.1, 0.1, 10)[:, None]

        def curves(vit, *data, **more):
            called.append((name, *data, more))
            return [Curve.of(name, parts_of(values), mean, less)]

        return curves

    for name, found in dict(
        read_scenes=lambda *given: given,
        segment_curves=curves('miou'),
        paint_curves=curves('paint', less=True),
        rank_curves=curves('rank'),
    ).items():
        monkeypatch.setattr(app, name, found)
    return called


def test_every_task_has_its_data_rows_and_sentences(setting, others, capsys):
    cfg, checkpoints, folders, out = setting
    cfg.model.backbone.mask_ratio = 0.5
    probe_depth(
        cfg, checkpoints[:1], **folders, out=out, labels=['a'], tasks=['segment', 'paint', 'rank'],
        segment_data='scenes', segment_size=(16, 32), paint_steps=7, loading=LOADING,
    )  # fmt: skip
    segment, paint, rank = others
    assert segment[1][0] == 'scenes' and segment[1][2] == (16, 32)
    assert [each.img_prefix for each in paint[1:3]] == [
        f'{folders[part]}/' for part in ('train', 'val')
    ]
    assert paint[-1] == dict(mask_ratio=0.5, steps=7, title='a, paint')
    assert rank[1].img_prefix == f'{folders["val"]}/' and len(rank[1]) == 15
    assert paint[4] == segment[3] == out / 'cache' and rank[3] == 'a, rank'
    result = json.loads((out / 'depth.json').read_text())
    with (out / 'depth.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [row['task'] for row in table] == [t for t in TAKES if t != 'classify' for _ in range(4)]
    assert float(table[1]['miou']) == 4 and table[1]['paint'] == table[1]['pool'] == ''
    error = 0.2 / 9 * (sum((i - 4.5) ** 2 for i in range(10)) / 90) ** 0.5  # of a mean
    assert float(table[1]['miou_error']) == pytest.approx(error)
    said = [each['sentence'] for each in result['summary']]
    assert said == [
        'a, segment, mIoU (%): best behind block 2 of 4, 4.00 +- 0.02; '
        'the last block has 3.00, 1.00 +- 0.00 less: the curve falls',
        'a, paint, painting error: best behind block 1 of 4, 1.0000 +- 0.0213; '
        'the last block has 3.0000, 2.0000 +- 0.0000 more: the error rises',
        'a, rank: effective rank 3.0 of the width 16 behind the last block; it compares runs of '
        'one method, so no block is called the best',
    ]
    printed = capsys.readouterr().out
    assert '\n'.join(said) in printed and '  a, segment, block 2 of 4: miou 4\n' in printed


def test_all_tasks_at_once(setting, tmp_path):
    cfg, checkpoints, folders, out = setting
    for part, number in (('train', 10), ('val', 4)):
        (tmp_path / 'scenes/images' / part).mkdir(parents=True)
        (tmp_path / 'scenes/masks' / part).mkdir(parents=True)
        for i in range(number):
            left = np.arange(32)[None].repeat(32, 0) < 8 * (1 + i % 3)
            picture = np.where(left[..., None], (200, 30, 30), (30, 30, 200)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / f'scenes/images/{part}/{i}.png')
            mask = Image.fromarray(left.astype(np.uint8))
            mask.save(tmp_path / f'scenes/masks/{part}/{i}.png')
    how = dict(out=out, k=3, loading=LOADING, every=2, paint_steps=3, tasks=[*TAKES])
    scenes = dict(segment_data=str(tmp_path / 'scenes'), segment_size=(32, 32))
    rows = probe_depth(cfg, checkpoints, labels=['MIRL', 'MAE'], **folders, **scenes, **how)
    assert len(rows) == 2 * 4 * 2  # checkpoints, tasks and blocks
    by_task = {task: [row for row in rows if row['task'] == task] for task in TAKES}
    assert all(row['miou'] > 90 for row in by_task['segment'])  # the classes are colours
    assert all(0.5 < row['paint'] < 3 for row in by_task['paint'])
    assert all(1 <= row['rank'] <= 16 and -1 <= row['cosine'] <= 1 for row in by_task['rank'])
    assert [row.get('cka') is None for row in by_task['rank']] == [True, False] * 2
    assert probe_depth(cfg, checkpoints, labels=['MIRL', 'MAE'], **folders, **scenes, **how) == rows


def test_what_is_not_finite_is_left_out():
    cka = Curve('cka', torch.tensor([torch.nan, 0.5]), torch.full((3, 2), torch.nan))
    assert rows_of([cka], [0, 4], label='a') == [
        dict(label='a', block=1),
        dict(label='a', block=5, cka=0.5),
    ]
    assert list(summaries([cka], [0, 4], VIT, 20, label='a', task='classify')) == []


def test_a_curve_that_does_not_fall():
    rising = Curve('knn', torch.tensor([1.0, 2.0]), torch.ones(3, 2))
    (found,) = summaries([rising], [0, 4], VIT, 20, label='a', task='classify')
    assert found['sentence'] == (
        'a, classify, 20-NN accuracy (%): best behind block 5 of 5, 2.00 +- 0.00'
    )
    assert found['best_block'] == 5 and found['fall'] == 0


def test_labels():
    assert checkpoint_labels(['a/b/c.pth', 'random'], None) == ['b/c', 'random']
    assert checkpoint_labels(['c.pth', 'b/c.pth'], None) == ['c', 'b/c']
