"""Whole runs at test size: killed in every stage, they come to the row of an undisturbed one."""

import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.study import rows, run
from benchmarks.study.grid import RUNS, Run
from benchmarks.study.stages import Place

DEPTH, EPOCHS, STEPS = 6, 3, 5  # steps of an epoch
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
    for split, count in (('training', 10), ('test', 2)):
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
