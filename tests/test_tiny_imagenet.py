import json

import pytest

from benchmarks.tiny_imagenet.collect import abridged, collect

ROWS = [
    {'knn/avg_k20': 3.5, 'step': 0},
    {'loss': 1.5, 'time': 0.5, 'lr': 1e-3, 'step': 50},
    {'loss': 1.0, 'time': 0.7, 'lr': 1e-3, 'step': 80},
    {'accuracy/top1': 7.0, 'raw/accuracy/top1': 6.0, 'time': 0.1, 'step': 1},
]


def test_what_a_run_has_logged(tmp_path):
    log = tmp_path / '20300101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(json.dumps(row) for row in ROWS))
    (tmp_path / 'config.py').write_text('model = dict(width=96)\nval_cfg = None\n')
    assert collect(tmp_path) == dict(
        measured=[ROWS[0], {'accuracy/top1': 7.0, 'raw/accuracy/top1': 6.0, 'step': 1}],
        last_loss=1.0,
        iterations=80,
        train_minutes=0.77,  # 50 x 0.5 s + 30 x 0.7 s
        config=dict(model=dict(width=96)),
    )
    (tmp_path / 'config.py').unlink()
    with pytest.raises(FileNotFoundError, match='no config in'):
        collect(tmp_path)


def test_long_lists_are_abridged():
    assert abridged(dict(a=[1, (2, 3)], b=list(range(0, 35000, 7)))) == dict(
        a=[1, [2, 3]], b='5000 values, 0 to 34993'
    )
