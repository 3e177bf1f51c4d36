import errno
import fcntl
import os
import signal
import time
from multiprocessing import Pipe, get_context
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mirl_mm.engine.launch import (
    check_file,
    check_init,
    load_config,
    set_resume,
    set_work_dir,
    testing_config,
    training_config,
)
from mirl_mm.engine.resume import ResumeError
from mirl_mm.errors import UserError
from mirl_mm.files import lock_folder

TINY = str(Path(__file__).parents[1] / 'data' / 'mae-tiny.py')
testing_config.__test__ = False  # its name looks like a test's to pytest

# --- files ----------------------------------------------------------------------------------------


def test_missing_files_are_named_with_the_nearest(tmp_path):
    (tmp_path / 'vit-b48_800e.py').touch()
    with pytest.raises(FileNotFoundError, match=r'no such config file: .*b48_80e.py .*b48_800e.py'):
        check_file(str(tmp_path / 'vit-b48_80e.py'), 'config')
    with pytest.raises(FileNotFoundError, match='looked in'):
        training_config('missing.py')
    check_file('https://somewhere/epoch_1.pth', 'checkpoint')  # not a local file
    (tmp_path / 'dinov2-base').mkdir()
    with pytest.raises(FileNotFoundError, match=r'which is a folder: tools/convert_checkpoint\.py'):
        check_file(str(tmp_path / 'dinov2-base'), 'pre-trained encoder')


def test_work_dir_default_and_priority(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(TINY)
    set_work_dir(cfg)
    assert cfg.work_dir == 'work_dirs/mae-tiny' and Path(cfg.work_dir).is_dir()
    cfg.work_dir = 'from-config'
    set_work_dir(cfg)
    assert cfg.work_dir == 'from-config'
    set_work_dir(cfg, 'from-tool')
    assert cfg.work_dir == 'from-tool'
    assert os.listdir('from-tool') == []


@pytest.mark.parametrize('below', ['', 'deep/er'])
def test_work_dir_that_cannot_be_written(tmp_path, below):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=r'cannot write to .*file.*; choose another --work-dir'):
        training_config(TINY, work_dir=str(tmp_path / 'file' / below))


def test_resume_auto_without_a_checkpoint_keeps_load_from(tmp_path):
    (tmp_path / 'weights.pth').touch()
    cfg = Config(dict(work_dir=str(tmp_path), load_from=str(tmp_path / 'weights.pth')))
    notes = set_resume(cfg, 'auto')
    assert (cfg.load_from, cfg.resume) == (str(tmp_path / 'weights.pth'), False)
    assert 'starting anew' in notes[0]


def test_a_start_that_would_load_nothing_ends_before_anything_is_built(tmp_path):
    """With the converter's command; a resumed run does not read its load_from."""
    path = tmp_path / 'mae.pth'
    torch.save(dict(model={'blocks.0.attn.qkv.weight': torch.ones(144, 48)}), path)
    model = dict(backbone=dict(type='mmpretrain.MAEViT'))
    told = rf'load_from: nothing of {path} .*convert_checkpoint\.py {path} NEW\.pth --to mirl'
    settings = dict(work_dir=str(tmp_path), load_from=str(path), model=model)
    with pytest.raises(ValueError, match=told):
        set_resume(Config(settings), 'auto')
    assert len(set_resume(Config(dict(settings, check_files=False)), 'auto')) == 1
    assert set_resume(Config(dict(settings, model=dict(backbone=dict(type='ResNet')))), None) == []
    init = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model['backbone'] = dict(type='MIRLViT', init_cfg=init)
    with pytest.raises(ValueError, match=rf'model\.backbone\.init_cfg: nothing of {path} would be'):
        check_init(Config(dict(model=model)))
    check_init(Config(dict(model=model, check_files=False)))
    torch.save({}, tmp_path / 'epoch_3.pth')
    assert set_resume(Config(settings), 'auto') == [f'resuming from {tmp_path / "epoch_3.pth"}']


def test_resume_auto_takes_the_last_checkpoint_also_of_a_moved_work_dir(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/run/epoch_3.pth')
    flag = Config(dict(work_dir=str(tmp_path), load_from='weights.pth'))
    with pytest.raises(ResumeError, match=r'can be read: epoch_3\.pth are cut short or gone'):
        set_resume(flag, 'auto')
    torch.save({}, tmp_path / 'epoch_3.pth')
    key = Config(dict(work_dir=str(tmp_path), resume=True))
    for cfg, resume in [(flag, 'auto'), (key, None)]:
        notes = set_resume(cfg, resume)
        assert (cfg.load_from, cfg.resume) == (str(tmp_path / 'epoch_3.pth'), True)
        assert notes == [f'resuming from {tmp_path / "epoch_3.pth"}']


def test_resume_path_must_exist(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match='no such checkpoint file'):
        set_resume(cfg, str(tmp_path / 'epoch_1.pth'))
    torch.save({}, tmp_path / 'epoch_1.pth')
    set_resume(cfg, str(tmp_path / 'epoch_1.pth'))
    assert (cfg.load_from, cfg.resume) == (str(tmp_path / 'epoch_1.pth'), True)
    assert set_resume(Config(dict(work_dir=str(tmp_path))), None) == []


@pytest.mark.parametrize('resume', ['last', 'folder'])
def test_a_folder_without_a_checkpoint_is_an_error_unless_auto(tmp_path, resume):
    cfg = Config(dict(work_dir=str(tmp_path)))
    resume = str(tmp_path) if resume == 'folder' else resume
    with pytest.raises(FileNotFoundError, match=r'no checkpoint in .*; --resume auto would start'):
        set_resume(cfg, resume)
    torch.save({}, tmp_path / 'iter_7.pth')  # last_checkpoint is not needed
    set_resume(cfg, resume)
    assert cfg.load_from == str(tmp_path / 'iter_7.pth')


def hold(folder: Path, told) -> None:
    lock_folder(folder, 'configs/first.py')
    worker = os.fork()  # as a loader's: it lives on when its parent is killed
    if not worker:
        time.sleep(60)
        os._exit(0)
    told.send(worker)
    time.sleep(60)


def test_a_work_dir_in_use_is_refused_until_its_run_has_died(tmp_path):
    read, told = Pipe(duplex=False)
    first = get_context('fork').Process(target=hold, args=(tmp_path, told))
    first.start()
    worker = read.recv()
    try:
        said = rf'{tmp_path} is in use by process {first.pid} on \S+ \(configs/first.py\), since 20'
        with pytest.raises(UserError, match=said):
            training_config(TINY, work_dir=str(tmp_path))
        first.kill()
        first.join()
        training_config(TINY, work_dir=str(tmp_path))  # at once, although the worker lives
        assert f'process {os.getpid()} on ' in (tmp_path / '.lock').read_text()
        training_config(TINY, work_dir=str(tmp_path))  # one process may do so twice
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    assert 'cannot be locked (No locks available)' in training_config(TINY, str(tmp_path))[1][0]


def test_an_earlier_run_in_the_work_dir_is_told(tmp_path):
    def told(**settings) -> bool:
        return 'has checkpoints of an earlier run, written over now' in str(
            training_config(TINY, str(tmp_path), **settings)[1]
        )

    assert not told()
    torch.save({}, tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_1.pth')
    assert told()
    assert not told(resume='auto')


# --- whole configs --------------------------------------------------------------------------------


def test_options_are_merged_before_the_flags(tmp_path):
    options = {'train_dataloader.batch_size': 8, 'optim_wrapper.optimizer.lr': 0.1}
    cfg, notes = training_config(
        TINY, work_dir=str(tmp_path), auto_scale_lr=True, cfg_options=options
    )
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.1 * 16 / 16)
    assert 'persistent_workers' not in cfg.train_dataloader  # no workers
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'OptimWrapper'
    assert cfg.optim_wrapper.type == kind
    assert sum('AMP is switched off' in note for note in notes) == (kind == 'OptimWrapper')


def test_workers_keep_their_settings():
    cfg = load_config(TINY, {'train_dataloader.num_workers': 2})
    assert cfg.train_dataloader.persistent_workers is True


def test_configs_that_cannot_be_run_say_what_they_lack(tmp_path):
    with pytest.raises(ValueError, match='no test_dataloader, test_cfg, test_evaluator'):
        testing_config(TINY, 'epoch_1.pth')
    config = tmp_path / 'empty.py'
    config.write_text("model = dict(type='X')\n")
    with pytest.raises(ValueError, match='no train_dataloader, train_cfg, optim_wrapper'):
        training_config(str(config))


def test_enabled_scaling_in_the_config_is_ours_too(tmp_path):
    options = {'auto_scale_lr.enable': True}
    cfg, _ = training_config(TINY, work_dir=str(tmp_path), cfg_options=options)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.0016 * 4 / 16)
    assert not cfg.auto_scale_lr.enable


def test_an_encoder_of_ones_own_size_replaces_a_named_one(tmp_path):
    base, child = tmp_path / 'base.py', tmp_path / 'child.py'
    base.write_text("model = dict(backbone=dict(arch='b12', img_size=64))\n")
    size = dict(embed_dims=96, num_layers=12, num_heads=3, feedforward_channels=384)
    options = {f'model.backbone.arch.{key}': value for key, value in size.items()}
    assert load_config(str(base), options).model.backbone == dict(arch=size, img_size=64)
    child.write_text(f"_base_ = './base.py'\nmodel = dict(backbone=dict(arch={size}))\n")
    words = r'child\.py cannot be read: TypeError: arch=.*_delete_=True'
    with pytest.raises(UserError, match=words):
        load_config(str(child))
    size['_delete_'] = True
    child.write_text(f"_base_ = './base.py'\nmodel = dict(backbone=dict(arch={size}))\n")
    assert load_config(str(child)).model.backbone.arch.embed_dims == 96
    child.write_text(f'model = dict(backbone=dict(arch={size}))\n')
    base.write_text("_base_ = './child.py'\nmodel = dict(backbone=dict(arch='b12'))\n")
    assert load_config(str(base)).model.backbone.arch == 'b12'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError: .*line 1'),
        ('model = dict(backbone=width)', "NameError: name 'width' is not defined"),
        ("custom_imports = dict(imports=['nowhere'])", "No module named 'nowhere'"),
    ],
)
def test_config_files_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(UserError, match=f'config.py cannot be read: .*{message}') as error:
        load_config(str(tmp_path / 'config.py'))
    assert '\n' not in str(error.value)
    (tmp_path / 'config.py').write_text("_base_ = './missing.py'")
    with pytest.raises(FileNotFoundError):
        load_config(str(tmp_path / 'config.py'))


def test_validation_needs_three_parts_or_none(tmp_path):
    config = str(Path(__file__).parents[2] / 'configs/mirl/vit-test_2e.py')
    how = 'give all three, or none: val_dataloader=None val_evaluator=None'
    with pytest.raises(UserError, match=f'val_dataloader, val_evaluator without val_cfg: {how}'):
        training_config(config, str(tmp_path), cfg_options={'val_cfg': None})


@pytest.mark.parametrize('split', ['train', 'val'])
def test_folders_of_images_are_looked_for_before_anything_is_built(tmp_path, split):
    config = str(Path(__file__).parents[2] / 'configs/mirl/vit-test_2e.py')
    for name in ('train', 'val'):
        (tmp_path / 'images' / name / 'deeper').mkdir(parents=True)
        (tmp_path / 'images' / name / 'deeper' / '1.JPG').touch()
    options = {f'{name}_dataloader.dataset.data_root': str(tmp_path) for name in ('train', 'val')}
    training_config(config, str(tmp_path / 'run'), cfg_options=options)
    key = f'{split}_dataloader.dataset'
    how = f'set {key}.data_root and data_prefix'
    if split == 'val':
        how += ', or no validation: val_dataloader=None val_cfg=None val_evaluator=None'
    (tmp_path / 'images' / split / 'deeper' / '1.JPG').rename(tmp_path / 'images' / split / '1.txt')
    accepted = 'accepted are files that end in .*'
    with pytest.raises(UserError, match=f'^no image in .*/images/{split}; {accepted}; {how}$'):
        training_config(config, str(tmp_path / 'run'), cfg_options=options)
    options[f'{key}.data_root'] = missing = f'{tmp_path}/nowhere'
    words = f'^no such folder of images: {missing}/images/{split}; {how}$'
    with pytest.raises(FileNotFoundError, match=words):
        training_config(config, str(tmp_path / 'run'), cfg_options=options)
