import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mirl_mm.analysis import plan as planning
from mirl_mm.analysis.memory import StepMemory
from mirl_mm.analysis.plan import (
    Batch,
    divide,
    linear_macs,
    optimizer_bytes,
    other_bytes,
    plan,
    schedule,
    speed,
)
from mirl_mm.analysis.plan_text import command, describe

CONFIGS = Path(__file__).parents[2] / 'configs'
MIRL = str(CONFIGS / 'mirl' / 'vit-test_2e.py')


@pytest.fixture(scope='module')
def planned():
    return plan(MIRL, gpus=2, memory_gb=4, throughput=100, images=320)


@pytest.fixture
def rehearsed(planned, monkeypatch):
    """The model's memory without rehearsing it again."""
    monkeypatch.setattr(planning, 'step_memory', lambda *_: planned.memory)


def test_the_numbers_hang_together(planned):
    assert planned.recipe_batch == planned.batch.effective == 32
    assert planned.batch == Batch(16, 2, 1)
    assert (planned.updates, planned.images_seen) == (20, 640)
    assert planned.days == pytest.approx(640 / 200 / 86400)
    fits = (4e9 - 1e9) * 0.9 + 1e9
    assert planned.memory.total(planned.largest) + planned.extra_bytes <= fits
    assert planned.memory.total(planned.largest + 1) + planned.extra_bytes > fits
    assert planned.peak_bytes == planned.memory.total(16) + planned.extra_bytes
    assert planned.training_flops > 2 * planned.forward_flops


@pytest.mark.parametrize(('arch', 'published'), [('s54', 18.8), ('b48', 67.0)])
def test_linear_layers_alone_are_what_was_published(arch, published):
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        vit = MODELS.build(dict(type='MIRLViT', arch=arch))
    assert linear_macs(vit) / 1e9 == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize(
    ('effective', 'gpus', 'largest', 'batch'),
    [
        (4096, 8, 1000, (512, 8, 1)),
        (4096, 8, 512, (512, 8, 1)),
        (4096, 8, 511, (256, 8, 2)),
        (4096, 8, 64, (64, 8, 8)),
        (4096, 8, 63, (32, 8, 16)),
        (4096, 1, 1, (1, 1, 4096)),
        (1000, 1, 300, (250, 1, 4)),
        (4096, 6, 400, (341, 6, 2)),  # 6 does not divide it: 4092
        (32, 64, 100, (1, 64, 1)),  # more GPUs than images
    ],
)
def test_effective_batch(effective, gpus, largest, batch):
    assert divide(effective, gpus, largest) == Batch(*batch)
    assert batch[0] <= largest


def test_length_by_epochs_and_by_iterations():
    cfg = Config.fromfile(CONFIGS / 'mirl' / 'vit-b48_800e.py')
    updates, seen, length = schedule(cfg, Batch(64, 8, 8), None)
    assert updates == 800 * 313  # 2502 steps of 512, the last 6 make an update too
    assert seen == 800 * 2502 * 512
    assert length == '800 epochs of 1,281,167 images'
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=700)  # of 8 accumulated
    assert schedule(cfg, Batch(16, 1, 4), None) == (87, 87 * 64, '87 updates')
    with pytest.raises(ValueError, match='100 images are fewer than the 512 of one step'):
        schedule(Config.fromfile(CONFIGS / 'mirl' / 'vit-b48_800e.py'), Batch(64, 8, 8), 100)


def test_what_is_held_beside_the_step():
    memory = StepMemory(parameters=100, gradients=90, optimizer=0, per_image=0, rest=0)
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    assert other_bytes(Config(), memory, 1) == 0
    assert other_bytes(Config(), memory, 2) == 0
    assert other_bytes(cfg, memory, 2) == 100
    cfg.model_wrapper_cfg = dict(gradient_as_bucket_view=False)
    assert other_bytes(cfg, memory, 2) == 190


def test_the_optimizers_state():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    assert optimizer_bytes(cfg, 8) == 4
    cfg.optim_wrapper.optimizer = dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')
    assert optimizer_bytes(cfg, 8) == 1


def test_an_assumed_rate_says_so():
    assert speed(123, 'A100', 0.4, 10**12) == (123, 'as given')
    assumed = speed(None, 'A100', 0.5, 10**12)
    assert assumed.images == pytest.approx(156)
    assert assumed.source == 'ASSUMED, not measured: 50% of A100 at 312 TFLOP/s'


def test_the_command_carries_batch_and_ema():
    config = str(CONFIGS / 'finetune' / 'vit-b48_60e_in1k.py')
    made = plan_of(batch=Batch(16, 32, 4), recipe=2048)
    assert command(made, config, {'model.backbone.with_cp': True}) == (
        f'tools/dist_train.sh {config} 32 --cfg-options model.backbone.with_cp=True '
        'train_dataloader.batch_size=16 optim_wrapper.accumulative_counts=4 '
        'custom_hooks.2.interval=4 custom_hooks.2.gamma=36'
    )
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'custom_hooks.2.interval': 4, 'custom_hooks.2.gamma': 36})
    assert (cfg.custom_hooks[2].type, cfg.custom_hooks[2].gamma) == ('EMAHook', 36)
    made = plan_of(batch=Batch(341, 6, 2), recipe=4096)
    assert command(made, MIRL).startswith(f'tools/dist_train.sh {MIRL} 6 --auto-scale-lr --cfg-')


def plan_of(batch: Batch, recipe: int) -> planning.Plan:
    memory = StepMemory(1, 1, 1, 1.0, 0)
    rate = planning.Speed(1, '')
    return planning.Plan([], 1, 1, 1, memory, 0, 1, batch, recipe, 1, 1, '', rate)


def test_in_words(planned):
    text = describe(planned, MIRL)
    for words in (
        'trainable parameters',
        'counted: matrix products and attention, a multiply-add as two; not recomputation',
        '32 = 16 x 2 GPUs x 1 accumulated',
        '2 epochs of 320 images: 20 updates, 640 images seen',
        '100 images/s per GPU, 200 in all (as given)',
    ):
        assert words in text, words
    odd = describe(planned._replace(batch=Batch(3, 5, 2)), MIRL)
    assert '30 = 3 x 5 GPUs x 2 accumulated; the recipe has 32' in odd


@pytest.mark.parametrize('name', ['mae/vit-test_2e', 'linear/vit-test_4e_classes'])
def test_other_kinds_of_runs(name):
    made = plan(str(CONFIGS / f'{name}.py'), gpus=1, throughput=10, images=64)
    assert made.batch.effective == made.recipe_batch
    assert made.memory.per_image > 0


def changed(tmp_path, **keys) -> str:
    """A file with the test config, some keys replaced (None removes one)."""
    cfg = Config.fromfile(MIRL).to_dict()
    for key, value in keys.items():
        cfg.pop(key, None)
        if value is not None:
            cfg[key] = value
    Config(cfg).dump(tmp_path / 'changed.py')
    return str(tmp_path / 'changed.py')


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(gpus=0), 'gpus must be above 0, got 0'),
        (dict(memory_gb=-1), 'memory_gb must be above 0, got -1'),
        (dict(throughput=0), 'throughput must be above 0, got 0'),
        (dict(images=-5), 'images must be above 0, got -5'),
        (dict(mfu=1.5), r'mfu must be above 0 and at most 1, got 1\.5'),
        (dict(gpu='H1000'), "unknown gpu 'H1000'; known are V100-PCIE, .*A100"),
        (dict(memory_gb=1), r'no batch fits into 1 GB: one image per GPU takes about 1 GB'),
        (dict(), r"how many images are in 'data/scenes/'\? Give images"),
    ],
)
def test_bad_numbers(kwargs, message, rehearsed):
    with pytest.raises(ValueError, match=message):
        plan(MIRL, **kwargs)


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(model=None), r'changed\.py cannot be planned: it has no model$'),
        (dict(train_dataloader=None, train_cfg=None), 'has no train_dataloader, train_cfg'),
        (dict(auto_scale_lr=None), 'auto_scale_lr.base_batch_size, the batch that the recipe'),
        (dict(model=dict(type='MaskRCNN')), 'MaskRCNN is not one of MIRL, MAE, ImageClassifier'),
        (
            dict(optim_wrapper=dict(optimizer=dict(type='Muon'))),
            "memory of the optimizer 'Muon' is not known; known are AdamW",
        ),
    ],
)
def test_bad_configs(tmp_path, keys, message, rehearsed):
    with pytest.raises(ValueError, match=message):
        plan(changed(tmp_path, **keys), images=320)


def test_the_tool(monkeypatch, capsys, rehearsed):
    def tool(*arguments):
        monkeypatch.setattr(sys, 'argv', ['plan.py', *arguments])
        runpy.run_path(str(CONFIGS.parent / 'tools' / 'plan.py'), run_name='__main__')

    tool(MIRL, '--gpus', '4', '--memory-gb', '24', '--images', '320')
    said = capsys.readouterr().out
    assert said.startswith(f'Plan of {MIRL}\n')
    assert 'ASSUMED, not measured: 40% of A100' in said and '32 = 8 x 4 GPUs' in said
    with pytest.raises(SystemExit, match='error: no batch fits into 1 GB'):
        tool(MIRL, '--memory-gb', '1')
    with pytest.raises(SystemExit, match=r'error: no such config file: nowhere\.py'):
        tool('nowhere.py')
