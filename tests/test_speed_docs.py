"""The pages about speed and data name what is there, and the tables' commands are accepted."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from benchmarks.tables import TABLES
from mirl_mm.datasets import LoadRandomResizedCrop, UnlabelledImages
from mirl_mm.models import MIRLDenseViT, MIRLNeck, MIRLViT

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'docs/speed.md', ROOT / 'docs/data.md', ROOT / 'benchmarks/README.md']


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', page.read_text())
    assert links
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_settings_that_the_pages_name():
    text = PAGES[0].read_text()
    for name in ('attn_fp32', 'compile_blocks', 'with_cp'):
        assert f'model.backbone.{name}' in text and f'model.neck.{name}' in text
        for owner in (MIRLViT, MIRLNeck):
            assert name in inspect.signature(owner).parameters
    assert 'window_size' in inspect.signature(MIRLDenseViT).parameters
    assert 'paths' in inspect.signature(UnlabelledImages).parameters
    assert inspect.signature(LoadRandomResizedCrop).parameters['reducing_gap'].default == 3


def test_commands_of_tables_are_accepted(monkeypatch, capsys):
    commands = [command for _, files in TABLES.values() for command in files.values()]
    assert len(commands) > 8
    for command in sorted(set(commands)):
        name, *words = command.split()
        module = importlib.import_module(f'benchmarks.{name}')
        monkeypatch.setattr(sys, 'argv', [name, *words, '--help'])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0, command
        known = capsys.readouterr().out
        for word in words:
            assert not word.startswith('--') or word in known, command
