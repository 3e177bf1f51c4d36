"""What the OpenMMLab libraries say, and what is said where one of them is not there."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.visualization import LocalVisBackend, vis_backend

from mirl_mm import libraries
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError
from mirl_mm.libraries import check_libraries, pretty_text

ROOT = Path(__file__).parents[1]
DENSE = dict(mmdet='mask-rcnn/vit-test_20it_scenes.py', mmseg='upernet/vit-test_20it_scenes.py')
SNIPPET = """
import mirl_mm
from mmengine.config import Config
from mmengine.registry import MODELS
model = MODELS.build(Config.fromfile('configs/mirl/vit-test_2e.py').model)
model.init_weights()
"""
# A detection library without its OneDL and without an op, as far as its chatter goes.
IMPORTED = """
import warnings
from mmengine.logging import print_log
print_log('Could not import OneDL. Skipping OneDL datasets.', level=10)
warnings.warn('faster_coco_eval is not installed, metrics will not be computed.')
warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from ``mmcv.ops``')
print_log('an answer')
warnings.warn('a warning of consequence')
"""


def said(*arguments: str) -> subprocess.CompletedProcess:
    """A Python of its own, with all that it would print."""
    environ = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True
    )


def test_the_model_in_python_says_nothing_and_others_keep_their_word():
    done = said('-c', SNIPPET + IMPORTED)
    assert (done.returncode, done.stdout) == (0, 'an answer\n')
    assert [line for line in done.stderr.splitlines() if 'Warning' in line] == [
        '<string>:14: UserWarning: a warning of consequence'
    ]


def test_help_begins_with_its_usage():
    done = said('tools/train.py', '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('usage: train.py')


def test_how_parameters_began_is_in_the_log_file_alone(tmp_path, capfd):
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py'))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    log = tmp_path / 'run.log'
    MMLogger.get_instance('a_run', log_file=str(log))  # current from now on
    model.init_weights()
    assert log.read_text().count('\nInitialized by') > 100
    assert 'Initialized by' not in ''.join(capfd.readouterr())


def test_a_configs_text_is_formed_once():
    """By content: an equal config has it already, a changed one and an unformatted one do not."""
    formed = []

    def form(config: Config) -> str:
        formed.append(config.a.b)
        return f'text {len(formed)}'

    cfg = Config(dict(a=dict(b='c')))
    same = Config(dict(a=dict(b='c')))
    assert pretty_text(cfg, form) == pretty_text(cfg, form) == pretty_text(same, form) == 'text 1'
    cfg.a.b = 'd'
    assert pretty_text(cfg, form) == 'text 2'
    plain = Config(dict(a=dict(b='d')), format_python_code=False)
    assert pretty_text(plain, form) == 'text 3' and formed == ['c', 'd', 'd']
    cfg.a.b = 'e'
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == dict(a=dict(b='e'))
    assert cfg.pretty_text is cfg.pretty_text


def test_a_full_disk_costs_a_line_of_scalars(tmp_path, monkeypatch):
    """Not the run; what had room of that line is gone again, and later lines are whole."""
    backend, said = LocalVisBackend(str(tmp_path)), []
    monkeypatch.setattr(libraries, 'print_log', lambda *args: said.append(args))
    backend.add_scalars(dict(loss=1.0), step=1)

    def half(values: dict, file: TextIO, **_) -> None:
        file.write('{"loss"')
        file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(vis_backend, 'dump', half)
        backend.add_scalars(dict(loss=2.0), step=2)
        for path in tmp_path.glob('*.json'):
            path.rename(tmp_path / 'kept')
        backend.add_scalars(dict(loss=2.0), step=3)  # nothing there yet
    assert (tmp_path / 'scalars.json').read_text() == ''
    (tmp_path / 'kept').rename(tmp_path / 'scalars.json')
    backend.add_scalars(dict(loss=3.0), step=4)
    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [dict(loss=1.0, step=1), dict(loss=3.0, step=4)]
    text = f'{tmp_path}/scalars.json ([Errno 28] No space left on device); the run goes on'
    assert said == [(f'could not write a line of {text}', 'current', logging.WARNING)] * 2
    (tmp_path / 'scalars.json').unlink()
    (tmp_path / 'scalars.json').mkdir()
    with pytest.raises(IsADirectoryError):  # any other fault ends the run
        backend.add_scalars(dict(loss=4.0), step=5)


@pytest.mark.parametrize(
    ('scope', 'missing'), [('mmdet', 'mmdet'), ('mmdet', 'mmcv.ops'), ('mmseg', 'mmseg')]
)
def test_a_dense_config_without_its_library_is_one_line(scope, missing, monkeypatch):
    if missing == 'mmcv.ops':  # half a full environment
        monkeypatch.setitem(sys.modules, 'mmdet', sys)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError) as refused:
        load_config(str(ROOT / 'configs' / DENSE[scope]))
    text = str(refused.value)
    assert text.startswith(f'a model of {scope} needs {missing}, which cannot be imported')
    assert 'make setup' in text and 'docs/install.md' in text and '\n' not in text


@pytest.mark.parametrize('scope', [None, 'mmpretrain', 'mmengine', 'another'])
def test_other_scopes_need_neither(scope, monkeypatch):
    for name in ('mmdet', 'mmseg', 'mmcv.ops'):
        monkeypatch.setitem(sys.modules, name, None)
    check_libraries(scope)


BROKEN = {  # where an mmpretrain raises, what, and what is said in one line
    'multimodal/__init__.py': ("raise TypeError('NoneType takes no arguments')", True),
    'multimodal/blip.py': ("raise ImportError('cannot import name GenerationMixin')", True),
    'backbones.py': ("raise TypeError('NoneType takes no arguments')", False),
}


@pytest.mark.parametrize('place', BROKEN)
def test_mmpretrain_that_breaks_beside_transformers_is_one_line(place, tmp_path):
    """Its multimodal models do; any other fault of it keeps its traceback."""
    text, one_line = BROKEN[place]
    files = {'__init__.py': '', 'models/__init__.py': 'from . import multimodal, backbones',
             'models/multimodal/__init__.py': 'from . import blip', 'models/multimodal/blip.py': '',
             'models/backbones.py': ''} | {f'models/{place}': text}  # fmt: skip
    for name, content in files.items():
        path = tmp_path / 'mmpretrain' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    facts = tmp_path / 'transformers-5.24.0.dist-info'
    facts.mkdir()
    (facts / 'METADATA').write_text('Metadata-Version: 2.1\nName: transformers\nVersion: 5.24.0\n')
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import mirl_mm'
    done = said('-c', code)
    assert (done.returncode, done.stdout) == (1, '')
    reason = text.split("'")[1]
    if one_line:
        assert done.stderr == (
            f'error: mmpretrain breaks beside transformers 5.24.0 ({reason}); pip install '
            "'transformers<4.50', or pip uninstall transformers\n"
        )
    else:
        assert done.stderr.startswith('Traceback') and done.stderr.endswith(f'{reason}\n')
