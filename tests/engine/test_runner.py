"""What the terminal shows; and batches: the same numbers, and no copy that blocks.

Steps run on the meta device, which has no values, so that to ask for one is an error.
"""

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirl_mm.engine.runner import (
    FOR_TERMINAL,
    SWITCHES,
    MIRLRunner,
    belongs_on_terminal,
    copy_ahead,
)
from mirl_mm.libraries import check_libraries
from tests.host_reads import caller
from tests.test_host_reads import RUNS


def record(level: int, message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(dict(levelno=level, msg=message))
    made.__dict__.update(extra)
    return made


def test_what_belongs_on_the_terminal():
    assert belongs_on_terminal(record(logging.WARNING, 'the rate does not fit'))
    assert belongs_on_terminal(record(logging.INFO, 'Run summary', **FOR_TERMINAL))
    assert not belongs_on_terminal(record(logging.INFO, 'Initialized by user-defined ...'))
    frozen = 'backbone.pos_embed is skipped since its requires_grad=False'
    assert not belongs_on_terminal(record(logging.WARNING, frozen))
    own = '"FileClient" will be deprecated in future. Please use io functions'
    assert not belongs_on_terminal(record(logging.WARNING, own))


def test_the_file_has_everything(tmp_path, capsys):
    runner = object.__new__(MIRLRunner)
    runner._log_dir, runner._timestamp = str(tmp_path), 'now'
    runner._experiment_name = 'runner-test'
    logger = runner.build_logger()
    logger.info('one of thousands')
    logger.info('the summary', extra=FOR_TERMINAL)
    shown, kept = capsys.readouterr().out, (tmp_path / 'now.log').read_text()
    assert 'the summary' in shown
    assert 'one of thousands' not in shown
    assert 'the summary' in kept
    assert 'one of thousands' in kept


def test_any_default_hook_can_be_switched_off():
    runner, registered = object.__new__(MIRLRunner), []
    runner.register_hook = registered.append
    runner.register_default_hooks(
        dict(timer=None, progress=None, health=dict(type='HealthHook'), panel=None)
    )
    names = [hook['type'] for hook in registered]
    assert 'HealthHook' in names and 'LoggerHook' in names
    assert 'IterTimerHook' not in names
    assert len(names) == 6


@pytest.mark.parametrize('task', ['train', 'test'])
def test_processes_end_together(monkeypatch, task):
    runner, order = object.__new__(MIRLRunner), []
    runner._hooks = [SimpleNamespace(flush=lambda _: order.append('flush'))]
    monkeypatch.setattr(Runner, task, lambda self: order.append(task) or 'result')
    monkeypatch.setattr('mirl_mm.engine.runner.barrier', lambda: order.append('barrier'))
    assert getattr(runner, task)() == 'result'
    assert order == [task, *['flush'] * (task == 'train'), 'barrier']


METRICS = {'coco/bbox_mAP': np.float32(0.125), 'mIoU': 12.5}


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_the_terminal_shows_the_metrics_once_and_no_training_lines(tmp_path, capsys, stage):
    """MMEngine's own line; those of iterations stay in the file."""
    runner = object.__new__(MIRLRunner)
    runner._log_dir, runner._timestamp = str(tmp_path), 'now'
    runner._experiment_name = f'metrics-{stage}'
    line = f'Epoch({stage}) [3][4/4]  ' + '  '.join(f'{k}: {v:.4f}' for k, v in METRICS.items())
    logs = MagicMock(
        **{
            'get_log_after_iter.return_value': ({}, 'Epoch(train) [3][ 9/10]  loss: 1'),
            'get_log_after_epoch.return_value': (METRICS, line),
        }
    )
    settings = dict(_train_loop={}, log_processor=logs, log_dir=str(tmp_path))
    runner = MagicMock(logger=runner.build_logger(), **settings)
    hook = LoggerHook(interval=1)
    hook.json_log_path = 'metrics.json'
    hook.after_val_iter(runner, 1)
    hook.after_test_iter(runner, 1)
    getattr(hook, f'after_{stage}_epoch')(runner, METRICS)
    shown, kept = capsys.readouterr().out, (tmp_path / 'now.log').read_text()
    assert shown.count(line) == kept.count(line) == 1
    assert kept.count('Epoch(train)') == 2 and 'Epoch(train)' not in shown


# --- preprocessors --------------------------------------------------------------------------------

CONFIGS = Path(__file__).parents[2] / 'configs'


def config_of(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / RUNS[name])
    check_libraries(cfg.default_scope)
    if name == 'mask-rcnn':  # the encoder's own size
        cfg.model.data_preprocessor.pad_size_divisor = 64
        cfg.model.backbone.window_size = 3
    if name == 'upernet':
        cfg.model.data_preprocessor.size = (64, 64)
    init_default_scope(cfg.default_scope)
    return cfg


def batch_of(name: str, labels=((0,), (3,), (1,), (3,))) -> dict:
    """Four pictures as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    imgs = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    if name in ('mirl', 'mae'):
        return dict(inputs=imgs, data_samples=[DataSample() for _ in imgs])
    if name in ('finetune', 'linear'):
        return dict(inputs=imgs, data_samples=[DataSample().set_gt_label([*one]) for one in labels])
    if name == 'upernet':
        from mmseg.structures import SegDataSample as Sample

        target = dict(gt_sem_seg=PixelData(data=torch.ones(1, 64, 64, dtype=torch.long)))
    else:
        from mmdet.structures import DetDataSample as Sample
        from mmdet.structures.mask import BitmapMasks

        box = dict(bboxes=torch.tensor([[1.0, 2, 30, 40]]), labels=torch.tensor([2]))
        masks = BitmapMasks(np.ones((1, 64, 64), np.uint8), 64, 64)
        target = dict(gt_instances=InstanceData(masks=masks, **box))
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    samples = [Sample(metainfo=meta, **copy.deepcopy(target)) for _ in imgs]
    return dict(inputs=[*imgs], data_samples=samples)


def numbers(given: dict) -> list:
    """All tensors of a preprocessor's result."""
    tensors = [given['inputs']]
    for sample in given['data_samples']:
        for _, value in sorted(sample.items()):
            parts = [part for _, part in value.items()] if hasattr(value, 'items') else [value]
            tensors += [part for part in parts if isinstance(part, torch.Tensor)]
    return tensors


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', RUNS)
def test_the_same_numbers(name, training):
    """In both calls that there are; fine-tuning mixes and cuts, so several times."""
    model = MODELS.build(config_of(name).model)
    stock, ahead = model.data_preprocessor, copy.deepcopy(model.data_preprocessor)
    copy_ahead(ahead)
    for seed in range(6):
        labels = ((0,), (3, 1), (1,), (2,)) if seed == 5 else ((0,), (3,), (1,), (3,))
        results = []
        for call in (
            lambda data: stock(data, training),
            lambda data: ahead(data, training=training),
        ):
            np.random.seed(seed)
            torch.manual_seed(seed)
            results.append(numbers(call(batch_of(name, labels))))
        assert len(results[0]) >= 1 + 4 * (name not in ('mirl', 'mae'))
        for one, other in zip(*results, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


class Copies(TorchDispatchMode):
    """Names where something of the host is brought to the device and waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in given if each.dim() or 'copy' in str(func)}
        lands = isinstance(result, torch.Tensor) and result.device.type == 'meta'
        if 'cpu' in kinds and lands and not (kwargs or {}).get('non_blocking'):
            self.blocking.add(caller())
        return result


def blocking(name: str, ahead: bool) -> set[str]:
    """In the second pass forward and back, of what is ours."""
    with torch.device('meta'):
        model = MODELS.build(config_of(name).model)
    model._set_device(torch.device('meta'))
    if ahead:
        copy_ahead(model.data_preprocessor)  # (an index list, unseen here, is copied as well)
        assert not any(getattr(model.data_preprocessor, name, False) for name in SWITCHES)
    for _ in range(2):
        with Copies() as copies:
            data = model.data_preprocessor(batch_of(name), training=True)
            if name in ('mask-rcnn', 'upernet'):
                maps = model.extract_feat(data['inputs'])
                sum(each.sum() for each in maps).backward()
            else:
                losses = model._run_forward(data, mode='loss')
                model.parse_losses(losses)[0].backward()
    return copies.blocking


@pytest.mark.parametrize('name', RUNS)
def test_no_copy_blocks(name):
    assert blocking(name, ahead=True) == set()
    assert any('preprocessor' in place for place in blocking(name, ahead=False))
