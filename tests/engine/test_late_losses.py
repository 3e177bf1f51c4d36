"""Histories of logged scalars: of bounded length, and all that is printed as if they were whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.faults.run import ITERATIONS, small_config, write_images
from mirl_mm.engine.hooks import late_losses
from mirl_mm.engine.launch import build_runner, training_config

KEPT, FILE = 12, f'iter_{ITERATIONS}.pth'
CLOCKS = ('time', 'data_time')


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train in a folder with so many values kept; gives the work dir."""
    images = write_images(tmp_path / 'images')

    def run(name: str, kept: int, resume: str | None = None, **options) -> Path:
        monkeypatch.setattr(late_losses, 'KEPT', kept)
        settings = dict(workers=0, default_hooks__checkpoint__max_keep_ckpts=-1, **options)
        small_config(images, experiment_name=name, **settings).dump(tmp_path / f'{name}.py')
        cfg, _ = training_config(str(tmp_path / f'{name}.py'), str(tmp_path / name), resume)
        build_runner(cfg).train()
        return tmp_path / name

    return run


def histories(work_dir: Path) -> dict[str, np.ndarray]:
    state = torch.load(work_dir / FILE, weights_only=False)['message_hub']
    return {name: history.data[0] for name, history in state['log_scalars'].items()}


def printed(work_dir: Path) -> list[dict]:
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [{k: x for k, x in json.loads(line).items() if k not in CLOCKS} for line in lines]


def test_the_newest_values_are_kept(train):
    """In memory and in checkpoints; log lines are the same, and a resumed run's end is, too."""
    whole, short = train('whole', late_losses.KEPT), train('short', KEPT)
    everything, kept = histories(whole), histories(short)
    assert len(everything['train/loss']) == len(everything['train/time']) == ITERATIONS
    assert len(kept['train/loss']) == len(kept['train/time']) == len(kept['train/lr']) == KEPT
    for name in everything.keys() - {f'{mode}/{x}' for mode in ('train', 'val') for x in CLOCKS}:
        np.testing.assert_array_equal(kept[name], everything[name][-KEPT:], name)
    assert printed(short) == printed(whole) and len(printed(short)) > ITERATIONS

    for begun in (short, whole):  # also from a checkpoint of before there was a bound
        name = f'on-{begun.name}'
        resumed = histories(train(name, KEPT, str(begun / 'iter_20.pth')))
        np.testing.assert_array_equal(resumed['train/loss'], kept['train/loss'])


@pytest.mark.parametrize(
    'setting',
    [
        dict(log_processor__custom_cfg=[dict(data_src='loss', method_name='mean', window_size=20)]),
        dict(log_processor__window_size=ITERATIONS),
    ],
)
def test_as_many_as_a_log_line_reads_are_kept(setting, train):
    assert len(histories(train('run', KEPT, **setting))['train/loss']) == ITERATIONS
