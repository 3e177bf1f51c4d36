import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from PIL import Image
from torch import nn

import mirl_mm
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.engine.run_facts import (
    cpu_name,
    explain_lr,
    git_state,
    parameter_rows,
    peak_lr,
    precision,
    table,
)
from mirl_mm.engine.runner import with_batches
from mirl_mm.errors import UserError, reason_of

TINY = str(Path(__file__).parents[1] / 'data' / 'mae-tiny.py')


@pytest.fixture
def run(tmp_path):
    """Runs the tiny config (10 images) with the given options and returns the log's text."""
    for i in range(10):
        Image.new('RGB', (40, 40), (20 * i, 0, 0)).save(tmp_path / f'{i}.png')

    def run(**options) -> str:
        # mmengine tells loggers apart by name and second
        options = {'experiment_name': tmp_path.name, **options}
        options['train_dataloader.dataset.data_root'] = str(tmp_path)
        cfg, notes = training_config(TINY, work_dir=str(tmp_path / 'work'), cfg_options=options)
        runner = build_runner(cfg, notes)
        runner.train()
        return Path(runner.logger.log_file).read_text()

    return run


def summary(log: str) -> dict[str, str]:
    """The one table in a log, as name to value."""
    _, text = log.split('Run summary\n')
    pairs = [line.strip().split('  ', 1) for line in text.splitlines() if line.startswith('  ')]
    return {name: value.strip() for name, value in pairs}


@pytest.mark.skipif(torch.cuda.is_available(), reason='the table names the GPU')
def test_the_table_of_a_run_and_the_warning(run, tmp_path):
    log = run()
    assert summary(log) == {
        'encoder (backbone)': '7,584',
        'decoders (neck)': '5,808',
        'trainable parameters': '13,392',
        'frozen parameters': '544',  # two position tables of 17 x 16
        'effective batch': '4 = batch 2 x processes 1 x accumulation 2',
        'learning rate': '0.0016 (does not fit the batch)',
        'epochs': '1',
        'iterations per epoch': '5 (updates: 3; images: 10)',
        'checkpoints': f'{tmp_path}/work, every 1 epochs',
        'precision': 'float32 (AMP off)',
        'device': 'cpu',
        'threads': f'{torch.get_num_threads()} ({cpu_name()})',
    }
    assert log.index('Run summary') < log.index('Epoch(train)')
    fitting = 'base 0.0016 x 4/16 = 0.0004 fits this batch: set optim_wrapper.optimizer.lr=0.0004'
    assert fitting in log
    assert log.count('AMP is switched off') == 1
    done = re.search(r'finished after 0:\d\d:\d\d; a page about it: mirl report (\S+)', log)
    assert done[1] == f'{tmp_path}/work'


def test_images_that_fill_no_batch_are_counted(run):
    log = run(**{'train_dataloader.batch_size': 4, 'train_dataloader.drop_last': True})
    left_out = '2 (updates: 1; images: 10, without 2 that fill no batch)'
    assert summary(log)['iterations per epoch'] == left_out


def test_a_run_by_iterations(run, tmp_path):
    log = run(**{
        'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4),
        'train_dataloader.sampler': dict(_delete_=True, type='InfiniteSampler'),
        'param_scheduler': None,
        'optim_wrapper.optimizer.lr': 0.0004,
        'default_hooks.checkpoint': dict(
            by_epoch=False, interval=-1, out_dir=str(tmp_path / 'out')
        ),
    })  # fmt: skip
    table = summary(log)
    assert table['iterations'] == '4 (updates: 2; passes over 10 images: 0.8)'
    assert table['learning rate'] == 'base 0.0016 x 4/16 = 0.0004'
    assert table['checkpoints'] == f'{tmp_path}/out/work, at the end'
    assert (tmp_path / 'out' / 'work' / 'iter_4.pth').is_file()
    assert 'fits this batch' not in log


def test_an_epoch_without_iterations_is_an_error(run):
    with pytest.raises(ValueError, match='10 images, fewer than the 16 of one batch'):
        run(**{
            'train_dataloader.batch_size': 16,
            'train_dataloader.drop_last': True,
            'param_scheduler': None,
        })  # fmt: skip


def test_the_papers_rule():
    how, warning = explain_lr(2.4e-3, 4096, 1.5e-4, 256)
    assert (how, warning) == ('base 0.00015 x 4096/256 = 0.0024', None)
    how, warning = explain_lr(2.4e-3, 2048, 1.5e-4, 256)
    assert 'does not fit' in how and 'optim_wrapper.optimizer.lr=0.0012' in warning
    for base, batch in ((None, 256), (1.5e-4, 0)):
        assert explain_lr(1e-4, 16, base, batch) == ('0.0001 (as configured)', None)


def test_peak_is_the_largest_group_before_warm_up():
    weight, bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([dict(params=[weight], lr=0.1), dict(params=[bias], lr=0.3)], lr=1)
    assert peak_lr(optimizer) == 0.3
    optimizer.param_groups[0].update(initial_lr=0.5, lr=1e-6)
    assert peak_lr(optimizer) == 0.5


def test_parameters_of_other_models_keep_their_parts_names():
    model = nn.Module()
    model.backbone, model.neck, model.relu = nn.Linear(2, 3), nn.Linear(3, 1000), nn.ReLU()
    model.backbone.bias.requires_grad_(False)
    assert parameter_rows(model) == [
        ('encoder (backbone)', '6'),
        ('neck', '4,000'),
        ('trainable parameters', '4,006'),
        ('frozen parameters', '3'),
    ]


def test_precision_names_the_dtype():
    amp = object.__new__(AmpOptimWrapper)  # building one needs a GPU
    amp.cast_dtype = torch.bfloat16
    assert precision(amp) == 'bfloat16 (AMP)'
    amp.cast_dtype = None
    assert precision(amp) == 'float16 (AMP)'
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    assert precision(OptimWrapper(sgd)) == 'float32 (AMP off)'


def test_table_aligns():
    assert table([('a', '1'), ('long', '2')]) == '  a     1\n  long  2'


def test_a_run_leaves_its_record(tmp_path):
    for i in range(4):
        Image.new('RGB', (40, 40), (20 * i, 0, 0)).save(tmp_path / f'{i}.png')
    options = {
        'train_dataloader.dataset.data_root': str(tmp_path),
        'experiment_name': tmp_path.name,
    }
    cfg, notes = training_config(TINY, work_dir=str(tmp_path / 'work'), cfg_options=options)
    runner = build_runner(cfg, notes)
    runner.train()
    record = json.loads((Path(runner.log_dir) / 'run.json').read_text())
    assert record['kind'] == 'train'
    assert record['config'] == TINY
    assert record['model'] == 'MAE' and record['encoder'] == 'MAEViT, 2 blocks of 16'
    assert (record['batch'], record['accumulation'], record['effective_batch']) == (2, 2, 4)
    assert (record['images'], record['epochs'], record['iterations']) == (4, 1, 2)
    assert record['trainable_parameters'] == 13392
    assert record['seed'] == 0
    assert record['versions']['mirl_mm'] == mirl_mm.__version__
    assert record['learning_rate'] == pytest.approx(0.0016)
    assert record['started'] < record['finished']
    assert record['seconds'] >= 0


def git(folder: Path, *arguments: str) -> None:
    who = ['-c', 'user.name=someone', '-c', 'user.email=someone@example.org']
    subprocess.run(['git', '-C', str(folder), *who, *arguments], check=True, capture_output=True)


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, 'init', '-b', 'trunk')
    for name in ('one.py', 'two.py'):
        (tmp_path / name).write_text('a = 1\n')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-m', 'first')
    state = git_state(tmp_path)
    assert len(state['commit']) == 40
    assert (state['branch'], state['changed']) == ('trunk', [])
    (tmp_path / 'one.py').write_text('a = 2\n')
    (tmp_path / 'new.py').touch()  # not tracked: no part of what was run, or no change of it
    assert git_state(tmp_path)['changed'] == ['one.py']
    below = tmp_path / 'site-packages'
    below.mkdir()
    assert git_state(below) is None


ITERATIONS = {
    'train_cfg': dict(_delete_=True, type='ExactIterLoop', max_iters=2),
    'train_dataloader.sampler': dict(_delete_=True, type='InfiniteSampler'),
    'param_scheduler': None,
}
DROPPED = {'train_dataloader.batch_size': 16, 'train_dataloader.drop_last': True}


def held_out(images: str) -> dict:
    """Validation of no batch: its ten images are fewer than a batch, and dropped."""
    dataset = dict(type='UnlabelledImages', data_root=images, pipeline=[])
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = dict(batch_size=11, drop_last=True, num_workers=0, sampler=sampler, dataset=dataset)
    evaluator = dict(type='ReconstructionError')
    return dict(val_dataloader=loader, val_evaluator=evaluator, val_cfg={})


@pytest.mark.parametrize('loop', ['EpochBasedTrainLoop', 'ExactEpochLoop'])
def test_fewer_images_than_a_batch_are_told_before_schedules_are_built(run, loop):
    fewer = 'train_dataloader gives no batch: it has 10 images, fewer than batch 16 x processes 1'
    how = 'set train_dataloader.batch_size=10 or less, or drop_last=False'
    with pytest.raises(UserError, match=f'^{fewer}; {how}$'):
        run(**DROPPED, **{'runner_type': 'MIRLRunner', 'train_cfg.type': loop})


def test_validation_without_a_batch_is_told_before_training(run, tmp_path):
    with pytest.raises(UserError, match='val_dataloader gives no batch: it has 10 images, fewer'):
        run(runner_type='MIRLRunner', **held_out(str(tmp_path)))
    assert not any(tmp_path.rglob('*.pth'))


def test_no_image_is_an_error_where_there_are_passes_without_end(run, tmp_path):
    log = run(**DROPPED, **ITERATIONS, runner_type='MIRLRunner')  # a batch has images twice
    assert summary(log)['iterations'] == '2 (updates: 1; passes over 10 images: 3.2)'
    none = {'train_dataloader.dataset.indices': 0, 'experiment_name': f'{tmp_path.name}-2'}
    with pytest.raises(ValueError, match='array') as error:
        run(**ITERATIONS, **none, runner_type='MIRLRunner')
    words = 'UnlabelledImages: no image is there, or its filter_cfg leaves out all'
    assert reason_of(error.value) == words
    loader = SimpleNamespace(dataset=[], batch_size=2, batch_sampler=InfiniteSampler([]))
    with pytest.raises(UserError, match='val_dataloader gives no batch: it has 0 images'):
        with_batches(SimpleNamespace(dataloader=loader), 'val_dataloader')


def test_the_schedule_may_go_on_before_the_first_of_several_micro_batches(run, tmp_path, recwarn):
    log = run(runner_type='MIRLRunner', **{'train_cfg.max_epochs': 2})
    assert not [each for each in recwarn if 'scheduler.step()' in str(each.message)]
    assert 'The schedule of the learning rate' not in log  # warm-up alone, and it ends
    longer = {'param_scheduler.0.end': 3, 'experiment_name': f'{tmp_path.name}-2'}
    log = run(runner_type='MIRLRunner', **longer)
    said = 'takes 3 epochs, but the run ends after 1'
    assert log.count('The schedule of the learning rate') == 1 and said in log
