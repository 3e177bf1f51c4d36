"""Whole runs at test size: killed in every stage, they come to the row of an undisturbed one."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from benchmarks.study import rows, run, stages
from benchmarks.study.grid import RUNS, Run
from benchmarks.study.stages import Place
from mirl_mm.checkpoint.reading import open_checkpoint

DEPTH, EPOCHS, STEPS = 6, 3, 5  # steps of an epoch
LIMIT = 1200  # seconds of a driver's call
IMAGES = 10  # of CamVid's training images
LENGTH = 31  # iterations of UperNet: one behind its warm-up
MEASURED_TIME = ('images_per_s', 'seconds', 'cpu_seconds', 'date')
FILES = {'tiny_imagenet_100/train': 320, 'camvid/images/training': IMAGES}
Strike = tuple[str, str, signal.Signals]  # in a stage, with what there, by which signal
TINY_STRIKES: list[Strike] = [
    ('train', 'train/epoch_1.pth', signal.SIGKILL),
    ('train', 'train/epoch_2.pth', signal.SIGTERM),
    ('probe', 'probe/cache/*.json', signal.SIGKILL),
    ('measure', 'measure.log', signal.SIGKILL),
]
CAMVID_STRIKES: list[Strike] = [
    ('pretrain', 'pretrain/iter_2.pth', signal.SIGKILL),
    ('all', 'all/iter_10.pth', signal.SIGKILL),
    ('all', 'all/iter_20.pth', signal.SIGTERM),
    ('few-test', 'few-test.log', signal.SIGKILL),
]


def write_data(folder: Path) -> Path:
    """Pictures and scenes of noise around a colour, as the study finds them."""
    rng = np.random.default_rng(0)

    def save(file: Path, pixels: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)

    for split, count in (('train', 160), ('val', 10)):
        for i in range(2 * count):
            noise = rng.integers(0, 100, (64, 64, 3)) + np.array([100 * (i % 2), 50, 0])
            save(folder / f'tiny_imagenet_100/{split}/{"ab"[i % 2]}/{i}.JPEG', noise)
    for split, count in (('training', IMAGES), ('test', 2)):
        for i in range(count):
            save(folder / f'camvid/images/{split}/{i}.jpg', rng.integers(0, 255, (60, 80, 3)))
            save(folder / f'camvid/annotations/{split}/{i}.png', rng.integers(0, 11, (60, 80)))
    return folder


def declared(monkeypatch, method: str, epochs: int) -> Run:
    made = Run('tiny', method, DEPTH, epochs, 0, 'tiny-imagenet-100')
    monkeypatch.setitem(RUNS, made.name, made)
    return made


def strike(folder: Path, stage: str, there: str, what: signal.Signals, jobs: list) -> None:
    """Signal the stage's process as soon as it runs and a file is there."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        if jobs and jobs[-1].stage.name == stage and any(folder.glob(there)):
            jobs[-1].process.send_signal(what)
            return
        time.sleep(0.01)


def struck(each: Run, strikes: list[Strike], place: Place, monkeypatch) -> dict:
    """The run's row where it was struck again and again, then left to end.

    Nothing is left out: every strike is in time, and ends the driver's call without a row.
    """
    jobs, start, file = [], run.start, place.work / 'rows.jsonl'

    def noting(*args) -> run.Job:
        jobs.append(start(*args))
        return jobs[-1]

    monkeypatch.setattr(run, 'start', noting)
    for stage, there, what in strikes:
        jobs.clear()
        watch = threading.Thread(
            target=strike, args=(place.of(each), stage, there, what, jobs), daemon=True
        )
        watch.start()
        assert run.work([each], place, LIMIT, file=file) == [each.name], there
        watch.join()
        assert not rows.read(file) and jobs[-1].stage.name == stage
        if what == signal.SIGTERM:  # it has saved between the checkpoints
            assert any((place.of(each) / stage).glob('iter_*.pth'))
            assert (place.of(each) / f'{stage}.log').read_text().count('SIGTERM after ') == 1
    assert run.work([each], place, LIMIT, file=file) == []
    return rows.read(file)[each.name]


def with_more(options: Callable[..., dict], more: dict) -> Callable[..., dict]:
    """A stage's options and others."""
    return lambda *args: options(*args) | more


def lasting(row: dict) -> dict:
    """What is the same, however long it took."""
    return {key: value for key, value in row.items() if key not in MEASURED_TIME}


@pytest.mark.long
def test_a_run_that_is_killed_in_every_stage_comes_to_the_same_row(tmp_path, monkeypatch):
    data = write_data(tmp_path / 'data')
    monkeypatch.setattr(run, 'FILES', FILES)
    mirl, mae = (declared(monkeypatch, method, EPOCHS) for method in ('mirl', 'mae'))
    untrained = declared(monkeypatch, 'untrained', 0)
    calm = Place(tmp_path / 'calm', data)
    assert (
        run.work([mirl, mae, untrained], calm, LIMIT, jobs=2, file=calm.work / 'rows.jsonl') == []
    )
    expected = rows.read(calm.work / 'rows.jsonl')
    for each, strikes in ((mirl, TINY_STRIKES), (mae, TINY_STRIKES[:1])):
        row = struck(each, strikes, Place(tmp_path / each.method, data), monkeypatch)
        calm_row = expected[each.name]
        assert lasting(row) == lasting(calm_row)
        assert row['steps'] == EPOCHS * STEPS and row['images_per_s'] > 0
        assert len(row['loss_by_epoch']) == EPOCHS and row['last_loss'] < row['loss_by_epoch'][0]
        assert sum(row['cpu_seconds'].values()) > sum(calm_row['cpu_seconds'].values())
        assert len(row['code']) == 1 and row['code'][0].startswith(row['commit'])

    for row in expected.values():
        assert [len(row[key]) for key in ('knn20', 'ridge', 'segment')] == [DEPTH] * 3
        assert row['config'].endswith('mae_tiny.py' if row['method'] == 'mae' else 'mirl_tiny.py')
    assert expected[untrained.name]['steps'] == 0
    assert expected[untrained.name]['held_out_error'] is None
    assert expected[mae.name]['held_out_error'] != expected[mirl.name]['held_out_error']


@pytest.mark.long
def test_a_run_of_grid_b_with_both_sources(tmp_path, monkeypatch):
    """Every stage at test size: images of both sources, the encoder handed on, both tests read.

    Killed in training of each kind, it comes to the same row.
    """
    data = write_data(tmp_path / 'data')
    monkeypatch.setattr(run, 'FILES', FILES)
    monkeypatch.setattr(stages, 'CAMVID_IMAGES', IMAGES)  # 10 images: 6 iterations, one label
    monkeypatch.setattr(stages, 'ITERATIONS', LENGTH)
    often = {'default_hooks.checkpoint.interval': 2}
    for name, more in (
        ('options_of', often),
        ('upernet_options', often | {'train_dataloader.batch_size': 2}),
    ):
        monkeypatch.setattr(stages, name, with_more(getattr(stages, name), more))
    made = Run('camvid', 'mirl', 12, 40, 0, 'camvid+tiny')
    monkeypatch.setitem(RUNS, made.name, made)
    monkeypatch.setattr(run.shutil, 'rmtree', lambda *_, **__: None)
    place = Place(tmp_path / 'calm', data)
    assert run.work([made], place, LIMIT, file=place.work / 'rows.jsonl') == []
    row = rows.read(place.work / 'rows.jsonl')[made.name]
    again = struck(made, CAMVID_STRIKES, Place(tmp_path / 'struck', data), monkeypatch)
    assert lasting(again) == lasting(row)

    assert row['steps'] == 40 * IMAGES // 64 == 6 and row['images_per_s'] > 0
    assert list(row['miou']) == ['all', 'few'] and all(0 <= v <= 100 for v in row['miou'].values())
    names = ['pretrain', 'all', 'all-test', 'few', 'few-test']
    assert list(row['cpu_seconds']) == names and min(row['cpu_seconds'].values()) > 0
    assert row['transfer'] == dict(config='benchmarks/study/upernet_camvid.py', iterations=LENGTH)
    folder = place.of(made)
    start = torch.load(folder / 'pretrain/encoder.pth', weights_only=True)['state_dict']
    for labels in ('all', 'few'):
        cfg = Config.fromfile(folder / f'{labels}/upernet_camvid.py')
        assert cfg.model.backbone.init_cfg.checkpoint == str(folder / 'pretrain/encoder.pth')
        trained = open_checkpoint(folder / f'{labels}/iter_{LENGTH}.pth').state
        name = 'backbone.layers.0.attn.qkv.weight'
        assert not torch.equal(trained[name], start[name])
        both = (trained[name].flatten(), start[name].flatten())
        assert torch.cosine_similarity(*both, dim=0) > 0.9  # trained on from where it came from
    few = Config.fromfile(folder / 'few/upernet_camvid.py').train_dataloader.dataset
    assert list(few.indices) == [0]
