"""The tools from the command line, in this process or forks of it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.processes import run_forked

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'tests' / 'data' / 'mae-tiny.py'
CLASSIFIER = f"""
_base_ = {str(TINY)!r}
model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16, topk=(1,)),
)
test_dataloader = dict(
    batch_size=3,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root=IMAGES,
        pipeline=[
            dict(type='LoadAnyImage'),
            dict(type='Resize', scale=(32, 32)),
            dict(type='PackInputs'),
        ],
    ),
)
test_cfg = dict()
test_evaluator = dict(type='Accuracy', topk=(1,))
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path) -> Path:
    """Ten images in two folders, one of them truncated."""
    for i in range(10):
        path = tmp_path / 'images' / f'class{i % 2}' / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 40), (20 * i, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:300])
    return tmp_path / 'images'


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """Runs a tool in the temporary folder and returns what it printed."""

    def tool(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        return capsys.readouterr().out

    return tool


def losses(work_dir: Path) -> list[float]:
    """Logged losses of the latest run in a work dir."""
    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    return [json.loads(line)['loss'] for line in log.read_text().splitlines()]


def test_train_resume_and_test(tool, images, tmp_path):
    data = f'train_dataloader.dataset.data_root={images}'
    # mmengine tells the loggers of one process apart by name and second
    first = [data, 'experiment_name=first']
    out = tool('train.py', TINY, '--resume', 'auto', '--cfg-options', *first)
    work_dir = tmp_path / 'work_dirs' / 'mae-tiny'
    assert f'no checkpoint in {Path("work_dirs/mae-tiny")} to resume from' in out
    assert 'unreadable image 1' in out and '9.jpg' in out
    assert len(losses(work_dir)) == 5
    assert (work_dir / 'epoch_1.pth').is_file()

    options = [data, 'train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=2']
    options += ['experiment_name=second']
    out = tool('train.py', TINY, '--resume', '--cfg-options', *options)
    assert 'epochs                2 (the first 1 are done)' in out
    assert 'Epoch(train) [2][5/5]' in out and 'Epoch(train) [1]' not in out
    assert (work_dir / 'epoch_2.pth').is_file()

    weights = torch.load(work_dir / 'epoch_2.pth', weights_only=False)['state_dict']
    weights['head.layers.head.weight'] = torch.zeros(2, 16)
    weights['head.layers.head.bias'] = torch.tensor([1.0, 0.0])  # whatever it sees is class 0
    torch.save(dict(state_dict=weights), tmp_path / 'classifier.pth')
    (tmp_path / 'classifier.py').write_text(CLASSIFIER.replace('IMAGES', repr(str(images))))
    out = tool('test.py', 'classifier.py', 'classifier.pth', '--work-dir', 'tested',
               '--cfg-options', 'test_dataloader.dataset.indices=4')  # fmt: skip
    assert 'accuracy/top1: 100.0000' in out
    assert list((tmp_path / 'tested').glob('*/*.json'))


def test_flags_reach_the_config(tool, images, tmp_path):
    out = tool('train.py', TINY, '--work-dir', 'run', '--amp', '--auto-scale-lr', '--cfg-options',
               f'train_dataloader.dataset.data_root={images}', 'optim_wrapper.type=OptimWrapper',
               'train_dataloader.batch_size=5')  # fmt: skip
    assert out.count('AMP is switched off') == (not torch.cuda.is_available())
    assert 'learning rate 0.0016 -> 0.001: batch 5 x processes 1 x accumulation 2 = 10' in out
    assert 'learning rate         base 0.001 x 10/10 = 0.001\n' in out
    assert len(losses(tmp_path / 'run')) == 2


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('train.py', ['missing.py'], 'no such config file: missing.py'),
        ('train.py', [TINY, '--resume', 'epoch_9.pth'], 'no such checkpoint file: epoch_9.pth'),
        ('train.py', [TINY, '--resume'], 'no checkpoint in work_dirs/mae-tiny to resume from'),
        ('train.py', [TINY, '--resume', 'empty'], 'no checkpoint in empty to resume from'),
        ('train.py', [TINY, '--resume', 'cut'], 'no checkpoint in cut can be read: epoch_1.pth'),
        ('train.py', [TINY, '--resume', 'cut/epoch_1.pth'], 'cut/epoch_1.pth is cut short'),
        (
            'train.py',
            [TINY, '--work-dir', 'file/run'],
            'cannot write to file/run (Not a directory); choose another --work-dir',
        ),
        ('train.py', [TINY, '--cfg-options', 'train_cgf.max_epochs=2'], "did you mean 'train_cfg'"),
        ('test.py', [TINY, 'epoch_9.pth'], 'cannot be run: it has no test_dataloader'),
        ('test.py', ['classifier.py', 'epoch_9.pth'], 'no such checkpoint file: epoch_9.pth'),
    ],
)
def test_errors_come_first_and_in_one_line(tool, tmp_path, name, arguments, message):
    (tmp_path / 'file').touch()
    for folder in ('empty', 'cut'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'cut/epoch_1.pth').write_bytes(b'PK' + bytes(100))
    (tmp_path / 'classifier.py').write_text(CLASSIFIER.replace('IMAGES', "''"))
    with pytest.raises(SystemExit) as stop:
        tool(name, *arguments)
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code
    assert not any(tmp_path.rglob('*.log'))


SLIPS = {
    'a key of the model': (
        ['model.backbone.imgsize=32'],
        "MAEViT has no argument 'imgsize' (did you mean 'img_size'?); accepted are arch, img_size,",
    ),
    'a key of a hook': (
        ['default_hooks.health.type=HealthHook', 'default_hooks.health.intervall=3'],
        "HealthHook has no argument 'intervall' (did you mean 'interval'?); accepted are interval",
    ),
    'a key of a data set': (
        ['train_dataloader.dataset.dataroot=x'],
        "UnlabelledImages has no argument 'dataroot' (did you mean 'data_root'?)",
    ),
    'a key of a loader': (
        ['train_dataloader.shufle=True'],
        "DataLoader has no argument 'shufle' (did you mean 'shuffle'?)",
    ),
    'a type': (
        ['train_dataloader.dataset.type=UnlabeledImages'],
        'unknown type: UnlabeledImages is not in the mmpretrain::dataset registry (did you mean '
        "'UnlabelledImages'?)",
    ),
    'a setting of a hook': (
        ['default_hooks.export.type=ExportEncoderHook', 'default_hooks.export.filename=a/b'],
        "filename must be a plain file name, got 'a/b'",
    ),
    'a setting of the neck': (['model.neck.decoder_depth=0'], 'decoder_depth must be at least 1'),
    'bad images': (
        ['train_dataloader.dataset.max_bad_images=0'],
        '1 images cannot be read, max_bad_images=0; the last: ',
    ),
    'bad images of a worker': (
        ['train_dataloader.dataset.max_bad_images=0', 'train_dataloader.num_workers=1'],
        '1 images cannot be read, max_bad_images=0; the last: ',
    ),
    'a packed folder': (['train_dataloader.dataset.data_root=packed://cut'], 'shard cut/'),
}


@pytest.mark.parametrize('slip', SLIPS)
def test_what_is_found_when_it_is_built_is_one_line_too(tool, images, tmp_path, slip):
    tool('pack_images.py', images, tmp_path / 'cut')
    for shard in (tmp_path / 'cut').glob('*.tar'):
        shard.write_bytes(shard.read_bytes()[:-1])
    options, message = SLIPS[slip]
    options = [f'train_dataloader.dataset.data_root={images}', *options]
    config = TINY
    if slip.endswith('neck'):
        config = ROOT / 'configs/mirl/vit-test_2e.py'
        options += ['train_dataloader.dataset.data_prefix=', 'val_dataloader=None']
        options += ['val_cfg=None', 'val_evaluator=None']
    with pytest.raises(SystemExit) as stop:
        tool('train.py', config, '--cfg-options', *options, f'experiment_name={tmp_path.name}')
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code


def test_two_processes_from_another_folder(images, tmp_path):
    options = (f'train_dataloader.dataset.data_root={images}', f'experiment_name={tmp_path.name}')
    out = run_forked(
        'train.py', TINY, '--work-dir', 'run', '--cfg-options', *options, cwd=tmp_path, processes=2
    )
    both = ''.join(out)
    assert both.count('effective batch       8 = batch 2 x processes 2 x accumulation 2') == 1
    assert both.count('gloo backend') == 1
    assert both.count('unreadable image') == 1  # from the process that met it
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    assert len(losses(tmp_path / 'run')) == 3


@pytest.mark.parametrize(('script', 'arguments'), [('dist_train.sh', 1), ('dist_test.sh', 2)])
def test_scripts_say_how_they_are_used(script, arguments):
    done = subprocess.run(
        [ROOT / 'tools' / script] + ['x'] * arguments, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


def test_scripts_start_the_tools_on_all_processes():
    """With a Python that says what it is given; tests/training starts the real one."""
    launched = f'{ROOT}/tools/torchrun.py --nnodes=2 --node_rank=1 --master_addr=host '
    launched += f'--master_port=1234 --nproc_per_node=4 {ROOT}/tools'
    where = dict(
        os.environ, NNODES='2', NODE_RANK='1', MASTER_ADDR='host', PORT='1234', PYTHON='echo'
    )
    for script, given, started in (
        ('dist_train.sh', ['c.py', '4', '--amp'], 'train.py c.py --launcher pytorch --amp'),
        (
            'dist_test.sh',
            ['c.py', 'a b', '4', '--amp'],
            'test.py c.py a b --launcher pytorch --amp',
        ),
    ):
        command = [ROOT / 'tools' / script, *given]
        done = subprocess.run(command, env=where, capture_output=True, text=True)
        assert done.stdout == f'{launched}/{started}\n', done.stderr
