"""Fine-tuning and linear probing with the shipped test configs on generated class folders."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS, init_default_scope

from mirl_mm.engine import launch
from mirl_mm.engine.launch import build_runner, training_config
from tests.class_folders import write_classes

ROOT = Path(__file__).parents[2]
FINETUNE = str(ROOT / 'configs/finetune/vit-test_2e_classes.py')
LINEAR = str(ROOT / 'configs/linear/vit-test_4e_classes.py')
CLASSES = ('blue', 'green', 'grey', 'red')


@METRICS.register_module()
class FirstScore(BaseMetric):
    """The mean score of class 0: a number that tells any two sets of weights apart."""

    default_prefix = 'first'

    def process(self, data_batch, data_samples):
        self.results += [float(sample['pred_score'][0]) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results) / len(results))


@pytest.fixture
def encoder(tmp_path) -> Path:
    """What pre-training with the test config leaves, before its first step."""
    cfg = Config.fromfile(ROOT / 'configs/mirl/vit-test_2e.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'encoder.pth')
    return tmp_path / 'encoder.pth'


@pytest.fixture
def options(tmp_path, encoder) -> dict:
    write_classes(tmp_path / 'classes/train', CLASSES, count=8)
    write_classes(tmp_path / 'classes/val', CLASSES, count=2, seed=1)
    root = str(tmp_path / 'classes')
    return {
        'experiment_name': tmp_path.name,
        'model.backbone.init_cfg.checkpoint': str(encoder),
        **{f'{name}_dataloader.dataset.data_root': root for name in ('train', 'val', 'test')},
    }


def train(config: str, tmp_path: Path, options: dict):
    cfg, _ = training_config(config, work_dir=str(tmp_path / 'run'), cfg_options=options)
    runner = build_runner(cfg)
    runner.train()
    return runner


def rows(runner) -> list[dict]:
    log = next(Path(runner.work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_fine_tuning_validates_both_weights(tmp_path, options):
    options |= {
        'val_evaluator': [dict(type='Accuracy', topk=(1,)), dict(type='FirstScore')],
        'optim_wrapper.optimizer.lr': 0.05,
        'auto_scale_lr.base_batch_size': 16,
    }
    runner = train(FINETUNE, tmp_path, options)
    validated = [row for row in rows(runner) if 'accuracy/top1' in row]
    assert [row['step'] for row in validated] == [1, 2]
    last = validated[-1]
    assert {'accuracy/top1', 'raw/accuracy/top1', 'first/score', 'raw/first/score'} <= last.keys()
    assert abs(last['first/score'] - last['raw/first/score']) > 1e-3

    # the file's weights are the averaged ones, and what the raw run goes on with lies beside them
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    raw = {name.removeprefix('module.'): value for name, value in saved['ema_state_dict'].items()}
    for key, state in {'first/score': saved['state_dict'], 'raw/first/score': raw}.items():
        assert score(runner, state) == pytest.approx(last[key], abs=1e-5), key
    best = max(row['accuracy/top1'] for row in validated)
    (file,) = (tmp_path / 'run').glob('best_accuracy_top1_epoch_*.pth')
    epoch = int(file.stem.rsplit('_', 1)[1])
    assert validated[epoch - 1]['accuracy/top1'] == best
    assert 'EMAHook averages' not in Path(runner.logger.log_file).read_text()


@torch.no_grad()
def score(runner, state: dict) -> float:
    model = runner.model
    model.load_state_dict({n: v for n, v in state.items() if n in model.state_dict()})
    model.eval()
    scores = [
        sample.pred_score[0] for batch in runner.val_dataloader for sample in model.val_step(batch)
    ]
    return float(torch.stack(scores).mean())


def test_another_accumulation_is_warned_of(tmp_path, options):
    options |= {'optim_wrapper.accumulative_counts': 1, 'train_cfg.max_epochs': 1}
    options |= {'param_scheduler': None}
    log = Path(train(FINETUNE, tmp_path, options).logger.log_file).read_text()
    averages = 'EMAHook averages every 2 iterations, but there is an update every 1: give it'
    assert f'{averages} interval=1 and gamma=9' in log


def test_both_weights_need_an_average(tmp_path, options):
    with pytest.raises(ValueError, match='RawWeightsHook has no effect without an EMAHook'):
        train(FINETUNE, tmp_path, options | {'custom_hooks': [dict(type='RawWeightsHook')]})


def test_a_checkpoint_is_tested_once(tmp_path, options):
    train(FINETUNE, tmp_path, {**options, 'experiment_name': f'{tmp_path.name}a'})
    options['experiment_name'] = f'{tmp_path.name}b'
    del options['model.backbone.init_cfg.checkpoint']
    cfg, _ = launch.testing_config(
        FINETUNE, str(tmp_path / 'run/epoch_2.pth'), str(tmp_path / 'test'), cfg_options=options
    )
    assert build_runner(cfg).test().keys() == {'accuracy/top1'}
    # (mmengine's save_best fails where nothing is trained)
    options |= {'experiment_name': f'{tmp_path.name}c', 'default_hooks.checkpoint': None}
    cfg, _ = launch.testing_config(
        FINETUNE, str(tmp_path / 'run/epoch_2.pth'), str(tmp_path / 'val'), cfg_options=options
    )
    assert build_runner(cfg).val().keys() == {'accuracy/top1'}


def test_a_linear_probe_learns_and_leaves_the_encoder(tmp_path, options, encoder):
    options |= {'optim_wrapper.optimizer.lr': 30.0, 'train_cfg.max_epochs': 12}
    options |= {'param_scheduler': None, 'train_cfg.val_interval': 4}
    runner = train(LINEAR, tmp_path, options)
    assert rows(runner)[-1]['accuracy/top1'] == 100  # the classes are colours
    before = torch.load(encoder)['state_dict']
    after = runner.model.state_dict()
    for name, value in before.items():
        if name.startswith('backbone.'):
            assert torch.equal(after[name], value), name


@pytest.mark.parametrize(
    ('folders', 'message'),
    [
        (dict(train=CLASSES, val=('blue', 'green', 'red')), r'differ: grey only in .*train'),
        (dict(train=CLASSES[:3], val=CLASSES[:3]), r'3 classes, .* give model.head.num_classes=3'),
        (dict(train=CLASSES, val=CLASSES, empty='train'), 'train has no image of the class empty'),
        (dict(train=CLASSES, val=CLASSES, empty='val'), 'val has no image of the class empty'),
    ],
)
def test_folders_that_do_not_go_together(tmp_path, options, folders, message):
    root = tmp_path / 'bad'
    for part in ('train', 'val'):
        write_classes(root / part, folders[part], count=4)
    if empty := folders.get('empty'):
        (root / empty / 'empty').mkdir()
    options |= {f'{part}_dataloader.dataset.data_root': str(root) for part in ('train', 'val')}
    with pytest.raises(ValueError, match=message):
        train(FINETUNE, tmp_path, options)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train_dataloader.dataset.data_root': 'none'}, 'no such folder of class folders: none/t'),
        ({'model.head.num_classes': 7}, 'has 4 classes, but the model is set to 7'),
        ({'model.backbone.init_cfg.checkpoint': 'none.pth'}, 'no such pre-trained encoder file'),
        ({'model.backbone.init_cfg.checkpoint': 'cut.pth'}, 'it may be cut short'),
        ({'model.backbone.arch': 's12', 'model.head.in_channels': 384}, 'is (1, 1, 48) there and'),
    ],
)
def test_slips_are_one_line_of_the_tool(tmp_path, options, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    Path('cut.pth').write_bytes(Path('encoder.pth').read_bytes()[:50_000])
    given = [f'{key}={value}' for key, value in (options | change).items() if '.' in key]
    command = ['train.py', FINETUNE, '--work-dir', str(tmp_path / 'run'), '--cfg-options', *given]
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code


def test_a_checkpoint_of_another_arch(tmp_path, options):
    state = torch.load(options['model.backbone.init_cfg.checkpoint'])
    state['state_dict'] = {n: v for n, v in state['state_dict'].items() if 'layers.11' not in n}
    torch.save(state, options['model.backbone.init_cfg.checkpoint'])
    with pytest.raises(ValueError, match='the checkpoint is of another arch'):
        train(FINETUNE, tmp_path, options)
