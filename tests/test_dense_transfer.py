"""benchmarks/dense_transfer: configs load and add up; what is recorded is what was logged."""

import json
from pathlib import Path

import pytest

from benchmarks.dense_transfer.collect import (
    BEGIN,
    END,
    collect,
    evaluations,
    put_into,
    table,
    thinned,
)
from mirl_mm.engine.launch import load_config

FOLDER = Path(__file__).parents[1] / 'benchmarks/dense_transfer'
ROWS = [
    {'loss': 3.0, 'time': 0.5, 'decode.acc_seg': 1.0, 'step': 10},
    {'mIoU': 7.5, 'aAcc': 30.0, 'time': 0.1, 'step': 10},
    {'loss': 1.0, 'time': 1.0, 'step': 40},
    {'mIoU': 20.0, 'aAcc': 60.0, 'time': 0.1, 'step': 40},
]


def log(folder: Path, rows: list[dict]) -> None:
    file = folder / '20300101_000000/vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(json.dumps(row) for row in rows))
    (folder / 'config.py').write_text('model = dict(width=96)\n')


def test_what_a_run_has_logged(tmp_path):
    log(tmp_path, ROWS)
    test = tmp_path / 'test_whole/20300101_000001'
    test.mkdir(parents=True)
    (test / '20300101_000001.json').write_text(json.dumps({'mIoU': 19.0, 'data_time': 1}))
    assert collect(tmp_path) == dict(
        losses=[[10, 3.0], [40, 1.0]],
        evaluated=[
            dict(iteration=10, mIoU=7.5, aAcc=30.0),
            dict(iteration=40, mIoU=20.0, aAcc=60.0),
        ],
        tests=dict(test_whole=dict(mIoU=19.0)),
        iterations=40,
        train_minutes=0.58,  # 10 x 0.5 s + 30 x 1 s
        config=dict(model=dict(width=96)),
    )


def test_a_validation_is_placed_behind_what_was_trained():
    rows = [{'loss': 1.0, 'step': 50}, {'coco/bbox_mAP': 0.1, 'step': 0}]
    assert evaluations(rows) == [{'iteration': 50, 'coco/bbox_mAP': 0.1}]


def test_curves_keep_their_end_and_their_mean():
    assert thinned([(i, float(i)) for i in range(1, 121)])[:2] == [[2, 1.5], [4, 3.5]]
    assert thinned([(i, 1.0) for i in range(1, 122)])[-1] == [121, 1.0]
    assert len(thinned([(i, 1.0) for i in range(1, 122)])) <= 60


def test_the_table_goes_between_the_marks(tmp_path):
    def seg(value):
        return dict(tests={f'test_{m}': dict(mIoU=value, aAcc=50) for m in ('whole', 'slide')})

    def det(value):
        keys = [f'{kind}_mAP{iou}' for kind in ('bbox', 'segm') for iou in ('', '_50')]
        keys += ['person_precision', 'AR@100']
        return dict(tests={}, evaluated=[{f'coco/{key}': value for key in keys}])

    text = table(
        dict(
            camvid_mirl=seg(30.123),
            camvid_scratch=seg(20),
            **{'coco-mini_mirl': det(0.012), 'coco-mini_scratch': det(0.001)},
        )
    )
    assert '| CamVid test, whole images, mIoU | 30.1 | 20.0 |' in text
    assert '| coco_mini val, mask AP | 1.2 | 0.1 |' in text
    readme = tmp_path / 'README.md'
    readme.write_text(f'before\n{BEGIN}\nold\n{END}\nafter\n')
    put_into(readme, text)
    assert readme.read_text() == f'before\n{BEGIN}\n{text}\n{END}\nafter\n'
    readme.write_text('no marks\n')
    with pytest.raises(ValueError, match='to write between'):
        put_into(readme, text)


def test_the_readme_shows_what_was_recorded():
    runs = json.loads((FOLDER.parent / 'results/dense_transfer/runs.json').read_text())['runs']
    assert f'{BEGIN}\n{table(runs)}\n{END}' in (FOLDER / 'README.md').read_text()
    page = (FOLDER.parents[1] / 'docs/dense.md').read_text()
    assert table(runs) in page
    assert f'{runs["mirl_camvid"]["iterations"]} iterations' in page


@pytest.mark.parametrize('name', ['mirl_camvid', 'mirl_coco-mini'])
def test_pre_training_fits_what_follows(name):
    task = dict(mirl_camvid='upernet_camvid')
    first = load_config(str(FOLDER / f'{name}.py'))
    then = load_config(str(FOLDER / f'{task.get(name, "mask-rcnn_coco-mini")}.py'))
    for key in ('arch', 'img_size', 'patch_size'):
        assert first.model.backbone[key] == then.model.backbone[key]
    assert then.model.backbone.init_cfg.checkpoint == f'work_dirs/{name}/encoder.pth'
    for cfg in (first, then):
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
        assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
        assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size


def test_camvid_is_read_as_it_is():
    cfg = load_config(str(FOLDER / 'upernet_camvid.py'))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert len(cfg[loader].dataset.metainfo.classes) == cfg.model.decode_head.num_classes == 11
        assert not cfg[loader].dataset.get('reduce_zero_label')
    assert cfg.model.test_cfg == dict(mode='whole')
