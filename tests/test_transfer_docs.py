"""The configs and command lines of docs/transfer.md do what the page says."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mirl_mm.engine.checks import check_data
from mirl_mm.engine.launch import training_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/transfer.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
CODE = re.findall(r'^(?:    .*\n)+', PAGE, re.MULTILINE)


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r'(?:configs|tools|benchmarks|tests/data)/[\w./-]+\.(?:py|sh|pd)', PAGE))
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_own_class_folders(tmp_path, monkeypatch):
    (command,) = [code for code in CODE if '/my/data' in code]
    words = shlex.split(command.replace('\\\n', ' '))
    assert words[:2] == ['python', 'tools/train.py'] and '--auto-scale-lr' in words
    root = tmp_path / 'data'
    for part in ('train', 'val'):
        for i in range(10):
            (root / part / f'class{i}').mkdir(parents=True)
            (root / part / f'class{i}/1.jpg').touch()
    given = [word.replace('/my/data', str(root)) for word in words if '=' in word]
    options = {key: int(v) if v.isdigit() else v for key, v in (w.split('=') for w in given)}
    options['model.backbone.init_cfg'] = None
    monkeypatch.chdir(tmp_path)
    cfg, _ = training_config(str(ROOT / words[2]), cfg_options=options)
    check_data(cfg, ['train', 'val'])
    (root / 'val/class3').rename(root / 'val/other')
    with pytest.raises(ValueError, match='differ: class3 only in'):
        check_data(cfg, ['train', 'val'])
    assert (cfg.model.head.num_classes, cfg.val_dataloader.dataset.data_root) == (10, str(root))


def test_the_knn_hook_joins_those_of_the_configs():
    (block,) = [block for block in BLOCKS if 'KNNHook' in block]
    (*before, knn) = eval(block.split('=', 1)[1])
    cfg = Config.fromfile(ROOT / 'configs/mirl/vit-b48_800e.py')
    assert before == cfg.custom_hooks
    assert (knn['train'], knn['val']) == ('data/imagenet/train', 'data/imagenet/val')


def test_the_error_is_the_one_shown(tmp_path, monkeypatch):
    (shown,) = re.findall(r'\n    \$ python (tools/convert_.*)\n    (error: .*)\n', PAGE)
    tool, source, _, *rest = shlex.split(shown[0])
    monkeypatch.setattr(sys, 'argv', [tool, source, str(tmp_path / 'o.pth'), *rest])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert stop.value.code == shown[1]
