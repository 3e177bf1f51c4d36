import json
from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks.tiny_imagenet.collect import abridged, collect
from benchmarks.tiny_imagenet.table import BETWEEN, README, tables

FOLDER = Path(__file__).parents[1] / 'benchmarks/tiny_imagenet'

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


@pytest.mark.parametrize('name', ['mirl', 'mae', 'finetune', 'linear'])
def test_runs_share_the_encoder_and_end_with_their_schedule(name):
    cfg = Config.fromfile(FOLDER / f'{name}_24-blocks.py')
    backbone = cfg.model.backbone
    assert backbone.arch == dict(
        embed_dims=64, num_layers=24, num_heads=2, feedforward_channels=256
    )
    assert (backbone.img_size, backbone.patch_size) == (64, 8)
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == cosine.begin
    batch, base = cfg.train_dataloader.batch_size, cfg.auto_scale_lr
    length = cfg.train_cfg.max_epochs * (1 if cosine.by_epoch else 35_000 // batch)
    assert cosine.end == cosine.begin + cosine.T_max == length
    assert base.base_batch_size == batch
    rate = dict(mirl=6e-3, mae=6e-3, finetune=1e-2, linear=50.0)[name]
    assert base.base_lr == pytest.approx(rate * batch / 256)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(base.base_lr)


def test_transfer_trains_on_equally_many_images_of_each_class():
    cfg = Config.fromfile(FOLDER / 'finetune_24-blocks.py')
    chosen = [index // 350 for index in cfg.train_dataloader.dataset.indices]  # 350 of each
    assert [chosen.count(label) for label in range(100)] == [35] * 100
    assert 3500 % cfg.train_dataloader.batch_size == 0


def write_results(folder: Path) -> None:
    """Small results, with numbers that tell where they come from."""
    runs = {}
    for i, name in enumerate(('mae', 'mirl')):
        knn = [dict(step=s, **{'knn/cls_k20': 4 + s, 'knn/avg_k20': 5 + s + i}) for s in (0, 1)]
        runs[f'{name}_24-blocks'] = dict(measured=knn)
    for i, name in enumerate(('untrained', 'mae', 'mirl')):
        row = {'step': 3, 'accuracy/top1': 10 + i, 'accuracy/top5': 30 + i}
        early = {**row, 'step': 1, 'accuracy/top1': 99}
        runs[f'linear_{name}'] = dict(measured=[early, row])
        raw = {'raw/accuracy/top1': 20 + i, 'raw/accuracy/top5': 40 + i}
        runs[f'finetune_{name}'] = dict(measured=[row | raw])
    (folder / 'runs.json').write_text(json.dumps(dict(runs=runs)))
    for i, name in enumerate(('random', 'mae', 'mirl')):
        top1 = dict(cls_k20=1.25 + i, avg_k20=2.5 + i, avg_k10=77)
        (folder / f'knn_{name}.json').write_text(json.dumps(dict(top1=top1)))
    (folder / 'depth.csv').write_text(
        'label,block,pool,knn,linear,penalty\n'
        'MAE,1,avg,6.04,7.0,0.1\nMAE,3,avg,1.0,1.0,0.1\nMAE,4,avg,6.14,7.5,0.1\n'
        'MIRL,1,avg,8.0,9.0,0.1\nMIRL,4,avg,8.5,9.5,0.1\n'
    )


def test_tables_are_the_results(tmp_path):
    write_results(tmp_path)
    lines = tables(tmp_path).splitlines()
    assert '| untrained | 1.2 | 2.5 | 10.0 | 30.0 | 10.0 | 20.0 | 40.0 |' in lines
    assert '| MIRL | 3.2 | 4.5 | 12.0 | 32.0 | 12.0 | 22.0 | 42.0 |' in lines
    assert '| 20-NN after epoch | 0 | 1 |' in lines
    assert '| MIRL, average | 6.0 | 7.0 |' in lines
    assert '| behind block | 1 | 4 |' in lines
    assert '| 20-NN, MAE | 6.0 | 6.1 |' in lines and '| ridge, MIRL | 9.0 | 9.5 |' in lines
    (tmp_path / 'knn_mae.json').unlink()
    with pytest.raises(FileNotFoundError, match='knn_mae'):
        tables(tmp_path)


def test_the_page_has_the_tables_of_the_stored_results():
    (shown,) = BETWEEN.findall(README.read_text())
    assert shown.strip() == tables().strip()
