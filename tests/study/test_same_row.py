"""Whole runs at test size: killed in every stage, they come to the row of an undisturbed one."""

import signal
import threading
import time
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
IMAGES = 10  # of CamVid's training images
LENGTH = 31  # iterations of UperNet: one behind its warm-up
MEASURED_TIME = ('images_per_s', 'seconds', 'cpu_seconds', 'date')
STRIKES = [  # in a stage, with what there, by which signal; one after the other
    ('train', 'train/epoch_1.pth', signal.SIGKILL),
    ('train', 'train/epoch_2.pth', signal.SIGTERM),
    ('probe', 'probe/features/*.npy', signal.SIGKILL),
    ('measure', 'measure.log', signal.SIGKILL),
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
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if jobs and jobs[-1].stage.name == stage and any(folder.glob(there)):
            jobs[-1].process.send_signal(what)
            return
        time.sleep(0.01)


@pytest.mark.long
def test_a_run_that_is_killed_in_every_stage_comes_to_the_same_row(tmp_path, monkeypatch):
    data = write_data(tmp_path / 'data')
    mirl, mae = (declared(monkeypatch, method, EPOCHS) for method in ('mirl', 'mae'))
    untrained = declared(monkeypatch, 'untrained', 0)
    calm, struck = (Place(tmp_path / name, data) for name in ('calm', 'struck'))
    files = [place.work / 'rows.jsonl' for place in (calm, struck)]
    assert run.work([mirl, mae, untrained], calm, 600, jobs=2, file=files[0]) == []
    expected = rows.read(files[0])

    jobs, start = [], run.start

    def noting(*args) -> run.Job:
        jobs.append(start(*args))
        return jobs[-1]

    monkeypatch.setattr(run, 'start', noting)
    for stage, there, what in STRIKES:
        jobs.clear()
        watch = threading.Thread(
            target=strike, args=(struck.of(mirl), stage, there, what, jobs), daemon=True
        )
        watch.start()
        assert run.work([mirl], struck, 300, file=files[1]) == [mirl.name], there
        watch.join()
        assert not rows.read(files[1]) and jobs[-1].stage.name == stage
        if what == signal.SIGTERM:  # it has saved between the epochs' checkpoints
            assert any((struck.of(mirl) / 'train').glob('iter_*.pth'))
    assert run.work([mirl], struck, 300, file=files[1]) == []
    found = rows.read(files[1])[mirl.name]
    same = {key: value for key, value in found.items() if key not in MEASURED_TIME}
    assert same == {k: v for k, v in expected[mirl.name].items() if k not in MEASURED_TIME}

    assert found['steps'] == EPOCHS * STEPS and found['images_per_s'] > 0
    assert len(found['loss_by_epoch']) == EPOCHS and found['last_loss'] < found['loss_by_epoch'][0]
    for row in expected.values():
        assert [len(row[key]) for key in ('knn20', 'ridge', 'segment')] == [DEPTH] * 3
        assert row['config'].endswith('mae_tiny.py' if row['method'] == 'mae' else 'mirl_tiny.py')
    assert expected[untrained.name]['steps'] == 0
    assert expected[untrained.name]['held_out_error'] is None
    assert expected[mae.name]['held_out_error'] != found['held_out_error']
    assert sum(found['cpu_seconds'].values()) > sum(expected[mirl.name]['cpu_seconds'].values())


@pytest.mark.long
def test_a_run_of_grid_b_with_both_sources(tmp_path, monkeypatch):
    """Every stage at test size: images of both sources, the encoder handed on, both tests read."""
    data = write_data(tmp_path / 'data')
    monkeypatch.setattr(stages, 'CAMVID_IMAGES', IMAGES)  # 10 images: 6 iterations, one label
    monkeypatch.setattr(stages, 'ITERATIONS', LENGTH)
    made = Run('camvid', 'mirl', 12, 40, 0, 'camvid+tiny')
    monkeypatch.setitem(RUNS, made.name, made)
    place, file = Place(tmp_path / 'work', data), tmp_path / 'rows.jsonl'
    monkeypatch.setattr(run.shutil, 'rmtree', lambda *_, **__: None)
    assert run.work([made], place, 600, file=file) == []
    row = rows.read(file)[made.name]
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
