import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mirl_mm.apps import plan as planning
from mirl_mm.apps import plan_text
from mirl_mm.apps.plan import (
    Batch,
    Model,
    Plan,
    Run,
    count_images,
    divide,
    linear_macs,
    model_of,
    optimizer_bytes,
    other_bytes,
    plan,
    schedule,
    update,
)
from mirl_mm.apps.plan_text import command, describe
from mirl_mm.errors import UserError
from mirl_mm.measure.cost import GPUS, Cost, Flops, Operation, cost
from mirl_mm.measure.rehearsal import StepMemory
from tests.class_folders import write_classes

CONFIGS = Path(__file__).parents[2] / 'configs'
MIRL = str(CONFIGS / 'mirl' / 'vit-test_2e.py')
DETECTOR = str(CONFIGS / 'mask-rcnn' / 'vit-test_20it_scenes.py')


@pytest.fixture(scope='module')
def probed():
    """A rehearsal of the test model, once."""
    cfg = Config.fromfile(MIRL)
    return planning.probe(cfg.model, (32, 64), dtype=torch.float32)


@pytest.fixture
def rehearsed(probed, monkeypatch):
    monkeypatch.setattr(planning, 'probe', lambda *_, **__: probed)


@pytest.fixture
def planned(rehearsed) -> Plan:
    return plan(MIRL, gpus=2, memory_gb=4, throughput=100, images=320)


def test_the_numbers_hang_together(planned):
    run = planned.run
    assert planned.recipe_batch == run.batch.effective == 32
    assert run.batch == Batch(16, 2, 1)
    assert (run.updates, run.images_seen) == (20, 640)
    assert run.days == pytest.approx(640 / 200 / 86400)
    limit = (4e9 - 1e9) * 0.9 + 1e9
    assert planned.memory.total(run.largest) + planned.extra_bytes <= limit
    assert planned.memory.total(run.largest + 1) + planned.extra_bytes > limit
    assert planned.peak_bytes == planned.memory.total(16) + planned.extra_bytes
    assert planned.flops.training > 2 * planned.flops.forward
    assert not planned.others


def test_the_floor_of_a_gpu(rehearsed, probed):
    made = plan(MIRL, gpus=2, gpu='L40S', images=320)
    device = GPUS['L40S']
    step = sum(
        max(each.flops / device.flops, each.bytes / device.bandwidth, 2e-6)
        for each in probed.operations(16)
    )
    updates = 28 + 8  # bytes of a parameter: AdamW's, and the guard's of its gradient
    step += max(updates * made.memory.gradients / 4 / device.bandwidth, 2e-6)
    assert made.run.rate == pytest.approx(16 / step)
    assert made.run.step == cost(probed.operations(16), device)
    assert [run.gpu for run in made.others] == ['A100', 'H100', 'H200', 'RTX 4090']
    assert made.run.memory_gb == 48
    by_name = {run.gpu: run.rate for run in made.others}
    assert by_name['H200'] >= by_name['H100'] >= by_name['A100']


def test_an_update_reads_and_writes():
    memory = StepMemory(parameters=400, gradients=300, optimizer=600, per_image=1, rest=0)
    # guard: gradients in and out; AdamW: gradients in, weights and state in and out
    assert update(Config(), memory) == Operation('update', 0, 600 + 300 + 2 * 900)
    ema = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    assert update(ema, memory).bytes == 2700 + 3 * 400


@pytest.mark.parametrize(('arch', 'published'), [('s54', 18.8), ('b48', 67.0)])
def test_linear_layers_alone_are_what_was_published(arch, published):
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        vit = MODELS.build(dict(type='MIRLViT', arch=arch))
    macs = linear_macs(vit, (224, 224))
    assert macs / 1e9 == pytest.approx(published, abs=0.1)
    with torch.device('meta'):
        more = MODELS.build(dict(type='MIRLViT', arch=arch, num_registers=2))
    each = 12 * vit.embed_dims**2 * vit.num_layers
    assert linear_macs(more, (224, 224)) == macs + 2 * each


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
    assert schedule(cfg, Batch(16, 1, 4), None) == (87, 87 * 64, '348 iterations')
    with pytest.raises(ValueError, match='100 images are fewer than the 512 of one step'):
        schedule(Config.fromfile(CONFIGS / 'mirl' / 'vit-b48_800e.py'), Batch(64, 8, 8), 100)


def test_images_of_a_folder_are_counted_as_the_run_lists_them(tmp_path, rehearsed):
    names = ('a.jpg', 'deep/b.PNG', 'deep/notes.txt', *(f'{i}.webp' for i in range(35)))
    for name in names:
        (tmp_path / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'train' / name).touch()
    where = {'data_root': str(tmp_path), 'data_prefix': 'train'}
    options = {f'train_dataloader.dataset.{key}': value for key, value in where.items()}
    made = plan(MIRL, gpus=1, throughput=100, cfg_options=options)
    assert made.length == '2 epochs of 37 images'
    labelled = Config.fromfile(str(CONFIGS / 'finetune' / 'vit-test_2e_classes.py'))
    labelled.train_dataloader.dataset.data_root = str(tmp_path)
    write_classes(tmp_path / 'train')
    assert count_images(labelled) == 12 + 1


def test_images_that_are_not_there_are_asked_for(tmp_path):
    cfg = Config.fromfile(str(CONFIGS / 'finetune' / 'vit-test_2e_classes.py'))
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(UserError, match=r'how many images are in .*\? Give images \(--images\): '):
        count_images(cfg)


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


def test_the_command_carries_batch_and_ema():
    config = str(CONFIGS / 'finetune' / 'vit-b48_60e_in1k.py')
    made = plan_of(batch=Batch(16, 32, 4), recipe=2048)
    assert command(made, config, {'model.backbone.with_cp': True}) == (
        f'tools/dist_train.sh {config} 32 --cfg-options model.backbone.with_cp=True '
        'train_dataloader.batch_size=16 optim_wrapper.accumulative_counts=4 '
        'custom_hooks.0.interval=4 custom_hooks.0.gamma=36'
    )
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'custom_hooks.0.interval': 4, 'custom_hooks.0.gamma': 36})
    assert (cfg.custom_hooks[0].type, cfg.custom_hooks[0].gamma) == ('EMAHook', 36)
    made = plan_of(batch=Batch(341, 6, 2), recipe=4096)
    assert command(made, MIRL).startswith(f'tools/dist_train.sh {MIRL} 6 --auto-scale-lr --cfg-')


def plan_of(batch: Batch, recipe: int) -> Plan:
    memory = StepMemory(1, 1, 1, 1.0, 0)
    run = Run('A100', 80, 1, batch, 1, 1, Cost(1, 1, 1, 1), 1)
    model = Model({}, torch.float32, None, 'mmpretrain')
    return Plan(model, [], Flops(1, 1), 1, memory, 0, recipe, '', False, run, [])


def test_lengths_follow_the_accumulation():
    """MMEngine counts iterations: twice as many, where two make an update instead of one."""
    config = str(CONFIGS / 'mask-rcnn' / 'vit-b12_lsj-100e_coco.py')
    options = plan_text.followers(Config.fromfile(config), 2)
    assert options == {
        'train_cfg.max_iters': 368750,
        'train_cfg.val_interval': 10000,
        'param_scheduler.0.end': 500,
        'param_scheduler.1.end': 368750,
        'param_scheduler.1.milestones': '[327778,355092]',
    }
    assert plan_text.followers(Config.fromfile(config), 1) == {}


def test_in_words(planned):
    text = describe(planned, MIRL)
    for words in (
        'trainable parameters',
        'counted: products and attention, a multiply-add as two; not what is recomputed',
        '32 = 16 x 2 GPUs x 1 accumulated',
        '2 epochs of 320 images: 20 updates, 640 images seen',
        '100 images/s per GPU, 200 in all',
        'as given',
        '3.2 s, without validation and checkpoints',
    ):
        assert words in text, words
    odd = planned._replace(run=planned.run._replace(batch=Batch(3, 5, 2)))
    assert '30 = 3 x 5 GPUs x 2 accumulated; the recipe has 32' in describe(odd, MIRL)


@pytest.mark.parametrize(
    ('days', 'words'),
    [(12.34, '12.3 days'), (1.5, '36 h'), (0.5 / 24, '30 min'), (3.2 / 86400, '3.2 s')],
)
def test_lengths_in_words(days, words):
    assert plan_text.duration(days) == words


def test_a_floor_says_so(rehearsed):
    text = describe(plan(MIRL, images=320, gpu='H100'), MIRL)
    assert 'rate, H100' in text and 'at most' in text and 'at least' in text
    assert 'a floor of eager steps: every kernel at the peak rates of the data sheet' in text
    assert 'RTX 4090, 24 GB' in text


@pytest.mark.parametrize('name', ['mae/vit-test_2e', 'linear/vit-test_4e_classes'])
def test_other_kinds_of_runs(name):
    made = plan(str(CONFIGS / f'{name}.py'), gpus=1, throughput=10, images=64)
    assert made.run.batch.effective == made.recipe_batch
    assert made.memory.per_image > 0


# --- detectors and segmentors ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def detector() -> Plan:
    return plan(DETECTOR, gpus=1, image_size=(128, 128))


def test_a_detector(detector):
    assert detector.run.batch == Batch(4, 1, 1)
    assert (detector.run.updates, detector.run.images_seen) == (10, 40)
    assert [name for name, _ in detector.parameters[:4]] == [
        'encoder (backbone)', 'neck', 'rpn_head', 'roi_head',
    ]  # fmt: skip
    # 3 x 3 convolutions of the RPN on the stride-4 map alone, both passes, for one image
    assert detector.flops.training > 2 * 3 * 2 * 32 * 32 * 9 * 32 * 32
    assert detector.linear_macs == 64 * 3 * 256 * 48 + 65 * 12 * 12 * 48**2


def test_what_fits_by_setting(detector, monkeypatch):
    tried = []

    def probed(cfg, batches, **settings):
        """Checkpointing takes a quarter; windows nothing."""
        tried.append(
            (cfg.backbone.get('with_cp'), cfg.backbone.window_size, settings['image_size'])
        )
        each = 1e9 * (settings['image_size'][0] / 1024) ** 2 / (4 if cfg.backbone.with_cp else 1)
        memory = detector.memory._replace(per_image=each)
        return SimpleNamespace(memory=lambda bytes_: memory if bytes_ == 8 else None)

    monkeypatch.setattr(plan_text, 'probe', probed)
    large = detector.model._replace(image_size=(1024, 1024))
    planned = detector._replace(
        model=large, memory=detector.memory._replace(per_image=1e9), extra_bytes=1e9
    )
    assert plan_text.that_fit(planned) == {
        'as planned': [20, 42, 71],
        'model.backbone.with_cp=True': [82, 169, 284],
        'and images of 896 x 896 px': [108, 220, 371],
    }
    large.cfg.backbone.window_size = 0
    assert [*plan_text.that_fit(planned)][2] == 'and model.backbone.window_size=14'
    assert tried == [
        (True, 5, (1024, 1024)), (True, 5, (896, 896)),
        (True, 0, (1024, 1024)), (True, 14, (1024, 1024)), (True, 14, (896, 896)),
    ]  # fmt: skip
    large.cfg.backbone.window_size = 5
    monkeypatch.setattr(plan_text, 'that_fit', lambda _: {'as planned': [0, 3, 7]})
    text = describe(detector, DETECTOR)
    assert 'as planned: none in 24 GB, 3 in 48 GB, 7 in 80 GB' in text
    assert 'of regions the heads alone' in text


def test_a_segmentor():
    made = plan(str(CONFIGS / 'upernet' / 'vit-test_20it_scenes.py'), gpus=1)
    assert made.model.image_size == (128, 128)
    assert made.run.batch.effective == 4
    assert [name for name, _ in made.parameters[2:4]] == ['decode_head', 'auxiliary_head']


@pytest.mark.parametrize('package', ['mmdet', 'mmcv.ops'])
def test_a_package_that_is_not_there(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f'a model of mmdet needs {package}, which cannot be imp'):
        plan(DETECTOR, gpus=1, image_size=(128, 128))


def test_image_sizes():
    lsj = Config.fromfile(str(CONFIGS / 'mask-rcnn' / 'vit-b12_lsj-100e_coco.py'))
    assert model_of(lsj).image_size == (1024, 1024)
    assert model_of(lsj, (800, 1333)).image_size == (800, 1333)
    several = Config.fromfile(str(CONFIGS / 'mask-rcnn' / 'vit-b12_1x_coco.py'))
    with pytest.raises(ValueError, match=r'how large are the training images.*--image-size'):
        model_of(several)
    ade = Config.fromfile(str(CONFIGS / 'upernet' / 'vit-b12_160k_ade20k-512.py'))
    assert (model_of(ade).image_size, model_of(ade).scope) == ((512, 512), 'mmseg')


def test_channels_are_honoured():
    cfg = Config.fromfile(MIRL).model
    cfg.backbone.in_channels = cfg.neck.in_channels = cfg.head.in_channels = 5
    three = planning.flops_per_image(Config.fromfile(MIRL).model, 2)
    assert planning.flops_per_image(cfg, 2).forward > three.forward


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
        (dict(image_size=(512, 0)), 'image_size must be above 0, got 0'),
        (dict(gpu='H1000'), "unknown gpu 'H1000'; known are V100-PCIE, .*A100"),
        (dict(memory_gb=1), r'no batch fits into 1 GB: one image per GPU takes about 1 GB'),
        (dict(), r"how many images are in 'data/scenes/'\? Give images"),
    ],
)
def test_bad_numbers(kwargs, message, rehearsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no demo has left its scenes
    with pytest.raises(ValueError, match=message):
        plan(MIRL, **kwargs)


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(model=None), r'changed\.py cannot be planned: it has no model$'),
        (dict(train_dataloader=None, train_cfg=None), 'has no train_dataloader, train_cfg'),
        (dict(auto_scale_lr=None), 'auto_scale_lr.base_batch_size, the batch that the recipe'),
        (
            dict(model=dict(type='BYOL')),
            'BYOL is not one of MIRL, MAE, ImageClassifier, and has ne',
        ),
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
    assert 'rate, A100' in said and '32 = 8 x 4 GPUs' in said
    with pytest.raises(SystemExit, match='error: no batch fits into 1 GB'):
        tool(MIRL, '--memory-gb', '1')
    with pytest.raises(SystemExit, match=r'error: no such config file: nowhere\.py'):
        tool('nowhere.py')


def test_more_channels_take_more():
    """Of patch projection and decoders' last layers, and of an image's memory; by hand."""
    three, five = (
        plan(str(CONFIGS / f'mirl/{name}.py'), images=320)
        for name in ('vit-test_2e', 'vit-test_2e_5-channels')
    )
    values = 16 * 16 * 2  # of a patch, in the two channels more
    patches, masked, segments = 4 * 4, 4 * 3, 6
    weights = 48 * values + segments * (32 + 1) * values
    assert five.memory.parameters - three.memory.parameters == 4 * weights
    work = 2 * values * (48 * patches + segments * 32 * masked)
    assert five.flops.forward - three.flops.forward == work
    assert five.memory.per_image > three.memory.per_image + 4 * values * patches
    assert five.linear_macs - three.linear_macs == 48 * values * patches
