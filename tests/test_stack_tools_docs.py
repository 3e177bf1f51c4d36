"""docs/stack-tools.md: what it names is there, and the cheap commands run."""

import re
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mirl_mm.demo.scene_set import write_scenes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'stack-tools.md').read_text()
COMMANDS = re.findall(r'`python \$(\w+)/(\S+\.py)(?: ([^`]*))?`', PAGE)
PACKAGES = dict(PRE='mmpretrain', DET='mmdet', SEG='mmseg')


def script(package: str, path: str) -> Path:
    return Path(import_module(PACKAGES[package]).__path__[0]) / '.mim' / 'tools' / path


@pytest.mark.parametrize(('package', 'path', 'words'), COMMANDS, ids=lambda word: word[:40])
def test_scripts_and_configs_are_there(package, path, words):
    assert script(package, path).is_file()
    for config in re.findall(r'configs/\S+', words):
        assert (ROOT / config).is_file()


def test_the_page_has_all_kinds():
    names = {Path(path).stem for _, path, _ in COMMANDS}
    wanted = {
        'print_config',
        'vis_scheduler',
        'get_flops',
        'browse_dataset',
        'confusion_matrix',
        'verify_dataset',
    }
    assert names == wanted
    for link in re.findall(r'\]\(([^)#:]+)\)', PAGE):
        assert (ROOT / 'docs' / link).exists()


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """A command of the page, run in this process; what it printed."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'Agg')

    def run(package: str, name: str) -> str:
        path, words = next(
            (path, words) for p, path, words in COMMANDS if p == package and name in path
        )
        file = script(package, path)
        monkeypatch.setattr(sys, 'argv', [str(file), *words.split()])
        runpy.run_path(str(file), run_name='__main__')
        return capsys.readouterr().out

    return run


def test_a_config_is_printed(tool):
    out = tool('PRE', 'print_config')
    assert "arch='s54'" in out and "type='MIRLHead'" in out


def test_the_learning_rate_is_drawn(tool, tmp_path):
    tool('PRE', 'vis_scheduler')
    assert (tmp_path / 'lr.png').stat().st_size > 5000


@pytest.mark.parametrize(('package', 'parameters'), [('PRE', r'0\.3\d+M'), ('DET', r'[\d.]+M')])
def test_parameters_are_counted(tool, package, parameters):
    write_scenes('data/scenes', num_train=2, num_val=2)  # of which the detector's takes one
    assert re.search(rf'Params: *{parameters}', tool(package, 'get_flops'))
