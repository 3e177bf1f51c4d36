"""The demo on a few iterations; its real length is tried by `make demo`."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

import mirl_mm.demo
from mirl_mm.demo import run_demo
from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.demo.transfer import all_background, measured, to_show
from mirl_mm.engine.own_data import hold_out
from tests.processes import run_forked

pytestmark = pytest.mark.xdist_group('demo')  # one worker: the run is shared

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/demo'
TRANSFER = dict(
    detection=str(CONFIGS / 'mask-rcnn_12-blocks.py'),
    segmentation=str(CONFIGS / 'upernet_12-blocks.py'),
)
SHORT = {
    'train_cfg.max_iters': 2,
    'train_cfg.val_interval': 2,
    'train_dataloader.batch_size': 2,
    'default_hooks.logger.interval': 1,
}


def demo(tmp_path: Path, *arguments: str) -> str:
    options = ('train_cfg.max_iters=8', 'train_cfg.val_interval=4', 'train_dataloader.batch_size=4')
    more = ('--cfg-options', 'default_hooks.logger.interval=2', *options)
    return run_forked('demo.py', '--work-dir', tmp_path / 'run', *arguments, *more, cwd=tmp_path)[0]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> Path:
    """A user's folder, nested, with a broken file in it."""
    folder = tmp_path_factory.mktemp('pictures') / 'scenes'
    write_scenes(folder, 20, 4, size=64)
    (folder / 'images/train/broken.jpg').write_bytes(b'\xff\xd8 nothing more')
    for split, name in (('train', 'summer'), ('val', 'winter')):  # no splits
        (folder / 'images' / split).rename(folder / 'images' / name)
    return folder / 'images'


def test_an_object_is_shown_once_as_what_it_is_most_likely():
    boxes = torch.tensor([[0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    scores, labels = torch.tensor([0.3, 0.6, 0.5, 0.1]), torch.tensor([0, 1, 0, 2])
    seen = to_show(InstanceData(bboxes=boxes.float(), scores=scores, labels=labels))
    assert seen.labels.tolist() == [1, 0] and seen.bboxes[:, 0].tolist() == [1, 20]


def test_a_users_pictures_become_a_curve_and_a_panel(tmp_path, pictures):
    printed = demo(tmp_path, '--data', str(pictures))
    assert 'iteration 8/8' in printed
    written = dict(re.findall(r'^  (checkpoint|curve|panel) +(\S+)$', printed, re.MULTILINE))
    assert set(written) == {'checkpoint', 'curve', 'panel'}
    assert Path(written['checkpoint']).name == 'iter_8.pth'
    assert Image.open(tmp_path / written['curve']).size == (1430, 546)
    width, height = Image.open(tmp_path / written['panel']).size
    assert min(width, height) > 900  # 8 columns, 8 rows
    assert 'Detection and segmentation are left out' in printed
    assert len(printed.splitlines()) < 60, 'the terminal keeps one screen'


@pytest.fixture(scope='module')
def on_scenes(tmp_path_factory) -> tuple[dict[str, Path], str, Path]:
    """The whole demo, two iterations each: what it wrote, what it printed, and its scenes."""
    folder = tmp_path_factory.mktemp('demo')
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(
            mirl_mm.demo, 'write_scenes', lambda out, **_: write_scenes(out, 6, 3, num_unlabelled=4)
        )
        patch.setattr(mirl_mm.demo, 'spare_cores', lambda most: 1)  # nothing is forked from tests
        patch.setattr(mirl_mm.demo.transfer, 'cores', lambda: 1)
        written = run_demo(
            str(CONFIGS / 'mirl_12-blocks.py'),
            TRANSFER,
            work_dir=str(folder / 'run'),
            scenes_dir=str(folder / 'scenes'),
            cfg_options=SHORT,
            transfer_options=SHORT,
        )
    return written, printed.getvalue(), folder / 'scenes'


@pytest.mark.dense
def test_the_scenes_are_detected_and_segmented_with_and_without_the_encoder(on_scenes):
    written, printed, scenes = on_scenes
    assert {'encoder', 'detection', 'segmentation'} <= set(written)
    number = r' +(\d+\.\d)'
    heads = re.search(r'^ +box AP50 +mask AP50 +mIoU$', printed, re.MULTILINE)
    assert heads, printed
    rows = {
        name: [float(value) for value in re.search(name + 3 * number, printed).groups()]
        for name in ('MIRL pre-trained', 'from scratch', 'nothing found')
    }
    assert rows['nothing found'] == [0, 0, round(all_background(SceneSet(scenes)), 1)]
    assert rows['MIRL pre-trained'] != rows['from scratch']  # two different starts
    assert 'Average Precision' not in printed, 'the metric keeps its table to itself'
    assert len(printed.splitlines()) < 60, 'the terminal keeps one screen'


def test_without_mmdet_the_demo_pre_trains_and_says_what_is_left_out(
    tmp_path, monkeypatch, capfd, on_scenes
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirl_mm.demo, 'write_scenes', lambda _, **__: SceneSet(on_scenes[2]))
    monkeypatch.setattr(mirl_mm.demo, 'spare_cores', lambda most: 1)
    monkeypatch.setattr(mirl_mm.demo, 'find_spec', lambda name: None if name == 'mmdet' else name)
    written = run_demo(str(CONFIGS / 'mirl_12-blocks.py'), TRANSFER, cfg_options=SHORT)
    assert set(written) == {'checkpoint', 'encoder', 'curve', 'panel', 'report'}
    printed = capfd.readouterr().out
    line = 'left out: no mmdet here; `make demo` adds what they need.'
    assert f'Detection and segmentation are {line}' in printed
    named = dict(re.findall(r'^  (\w+) +(work_dirs/\S+)$', printed, re.MULTILINE))
    assert named['checkpoint'] == 'work_dirs/demo/iter_2.pth'
    assert named.keys() == written.keys()


@pytest.mark.dense
def test_a_page_of_predictions_has_a_row_a_scene_and_a_column_a_start(on_scenes):
    for task in TRANSFER:
        width, height = Image.open(on_scenes[0][task]).size
        assert (width, height) == (4 * 240, 3 * 240 + 90)


@pytest.mark.dense
def test_training_starts_from_the_fresh_encoder(on_scenes):
    written, _, _ = on_scenes
    fresh = torch.load(written['encoder'], weights_only=True)['state_dict']
    name = 'backbone.layers.11.ffn.layers.0.0.weight'
    for start, near in (('mirl', True), ('from', False)):
        run = written['encoder'].parent / f'detection_{start}'
        tuned = torch.load(run / 'iter_2.pth', weights_only=False)['state_dict']
        assert torch.allclose(tuned[name], fresh[name], atol=1e-3) == near


def test_a_segmentor_that_finds_nothing(tmp_path):
    scenes = write_scenes(tmp_path / 'scenes', 1, 2, size=64)
    shares = []
    for file in scenes.masks('val').iterdir():
        shares.append((np.asarray(Image.open(file)) == 0).mean())
    assert all_background(scenes) == pytest.approx(100 * np.mean(shares) / 4)


def test_a_detector_that_finds_nothing_has_no_precision(tmp_path):
    """mmdet then logs an evaluation without a metric."""
    log = tmp_path / '20300101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    rows = [{'loss': 2.5, 'step': 2}, {'data_time': 0.1, 'time': 0.2, 'step': 2}]
    log.write_text('\n'.join(map(json.dumps, rows)))
    assert measured(tmp_path) == {'box AP50': 0, 'mask AP50': 0}
    found = {'coco/bbox_mAP_50': 0.25, 'coco/segm_mAP_50': 0.5, 'step': 4}
    log.write_text('\n'.join(map(json.dumps, [*rows, found])))
    assert measured(tmp_path) == {'box AP50': 25, 'mask AP50': 50}


def test_train_and_held_out_pictures_are_apart(tmp_path, pictures):
    parts = hold_out(str(pictures), tmp_path)
    lists = {part: Path(each['ann_file']).read_text().split() for part, each in parts.items()}
    assert lists['val'] == lists['test']
    assert len(lists['val']) == 8
    assert len(lists['train']) == 25 - 8
    assert not set(lists['train']) & set(lists['val'])
    assert all((pictures / name).is_file() for name in lists['train'] + lists['val'])


def test_too_few_pictures_and_no_folder_are_one_clear_line(tmp_path, monkeypatch):
    write_scenes(tmp_path / 'few', 4, 1, size=64)
    few = f'{tmp_path / "few/images/train"} holds 4 pictures; needed are at least 16'
    none = f'--data: no such file or folder: {tmp_path / "none"}'
    for folder, message in (('few/images/train', few), ('none', none)):
        given = ['demo.py', '--work-dir', str(tmp_path / 'run'), '--data', str(tmp_path / folder)]
        monkeypatch.setattr(sys, 'argv', given)
        with pytest.raises(SystemExit) as stop:  # its message goes to stderr, and its code is 1
            runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='__main__')
        assert stop.value.code.startswith(f'error: {message}') and '\n' not in stop.value.code
