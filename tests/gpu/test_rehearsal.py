"""A share of the rehearsal: all stages at test size on a CPU, without their slowest parts."""

import json

import pytest

from benchmarks.gpu.stage import Record, run_parts
from benchmarks.gpu.stages import STAGES
from benchmarks.stall import HOOKS
from tests.gpu.small import bench

SLOW = ('resume', 'golden s54 float32', 'compiled peers', 'test 8 eager', 'mask-rcnn test')


LONG = ('correct', 'end_to_end', 'dense')


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in STAGES]
)
def test_a_share_of_the_rehearsal(name, tmp_path):
    parts = [p for p in STAGES[name].parts(True) if not p.name.endswith(SLOW)]
    assert parts
    record = Record(tmp_path / f'{name}.json')
    run_parts(name, parts, bench(), record, 'a call', STAGES[name].sizes(True))
    content = json.loads((tmp_path / f'{name}.json').read_text())
    assert content['failed'] == {} and content['left_out'] == {}
    assert content['rehearsal'] is True and content['stage'] == name
    assert {'date', 'hardware', 'versions', 'memory_gb', 'config'} < content.keys()
    found = {row['part']: row for row in content['rows']}
    assert list(found) == [part.name for part in parts]
    CHECKS[name](found)


def check_correct(found: dict) -> None:
    assert (
        found['golden test float32']['within'] and found['golden test float32']['of_tolerance'] < 1
    )
    for difference in found['settings']['relative'].values():
        assert difference['gradients'] < 1e-5
    assert found['windows']['relative'] < 1e-6
    assert len(found['bf16']['losses'][0]) == 6
    assert 0 < found['bf16']['gradients']['segment_0']['relative'] < 0.1
    assert found['bf16']['gradients']['segment_0']['cosine'] > 0.99
    waits = found['run']['waits_by_line']
    assert found['run']['waits'] == sum(waits.values())
    assert all(line.startswith(('mirl_mm/', 'mmengine/')) for line in waits)
    rows = found['checkpoint']['rows']
    assert [row['hook'] for row in rows] == list(HOOKS) and all(row['written'] for row in rows)
    assert found['ops']['nms_equal'] and found['ops']['roi_align'] == 0


def check_pretrain(found: dict) -> None:
    eager, own = found['test 4 eager'], found['test 4 settings']
    assert list(eager['images_per_s']) == ['mirl', 'mae', 'plain']
    assert list(own['images_per_s']) == ['mirl', 'compiled', 'checkpointed']
    assert own['peak_gb']['checkpointed'] <= own['peak_gb']['mirl']
    assert len(eager['profile']['mirl']['operations']) == 10
    undone = found['test 4 ideas']['step']['ratios']
    assert 'every token projected' in undone


def check_dense(found: dict) -> None:
    assert len(found['test 256 px']['images_per_s']) == 4
    assert found['upernet test']['backbone_share']['median'] > 0


def check_end_to_end(found: dict) -> None:
    (run,) = found.values()
    assert 0 <= run['waiting'] < 1 and run['start_up_s'] > 1
    assert run['images_per_s'] > 0 and len(run['seconds']) == 5


def check_depth(found: dict) -> None:
    rows = {name: row for name, row in found.items() if name != 'plan'}
    assert list(rows) == [f'{m} 12, seed 0' for m in ('mirl', 'mae', 'untrained')]
    for name, row in rows.items():
        assert name.startswith(row['method'])
        assert len(row['knn20']) == len(row['ridge']) == row['depth'] == 12
        assert {'study', 'width', 'seed', 'batch', 'seconds', 'device', 'versions'} < row.keys()
    assert rows['mae 12, seed 0']['steps'] == 3 and rows['untrained 12, seed 0']['steps'] == 0
    assert rows['mirl 12, seed 0']['held_out_error'] > 0


CHECKS = dict(
    correct=check_correct,
    pretrain=check_pretrain,
    dense=check_dense,
    end_to_end=check_end_to_end,
    depth=check_depth,
)
