"""Tools on what strangers give: they write nothing beside it, and show its names as text."""

import hashlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mirl_mm.checkpoint.folders import card, plain
from mirl_mm.checkpoint.reading import open_checkpoint
from mirl_mm.datasets.packed import MANIFEST, Packed
from mirl_mm.datasets.packed.writing import pack_images
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import PackedError, UserError, one_line, visible
from mirl_mm.pictures.charts import chart, curve, draw_charts, natural
from tests.apps.runs import add_start, train_rows
from tests.class_folders import MIRL, write_checkpoint, write_classes, write_config

ROOT = Path(__file__).parents[2]
DATA = ['--train', '../given/data', '--val', '../given/data', '--workers', '0', '--k', '2']
MODEL = ['../given/mirl.py', '../given/mirl.pth']
TOOLS = dict(
    convert=['convert_checkpoint.py', '../given/mirl.pth', 'out.safetensors'],
    knn=['knn.py', *MODEL, *DATA, '--out', 'out/knn.json'],
    predict=['predict.py', 'finetune/vit-test_2e_classes', '../given/cls.pth', '../given/data/red'],
    visualize=['visualize.py', *MODEL, '../given/data/red'],
    reconstruct=['reconstruct.py', *MODEL, '../given/data/red'],
    probe_depth=['probe_depth.py', *MODEL, *DATA, '--every', '4', '--out', 'out'],
    report=['report.py', '../given', '--out', 'out/r.html'],
)


def state(folder: Path) -> dict[str, tuple]:
    """Of all in a folder, itself too: time of the last change, mode, and content."""
    return {
        str(path): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in (folder, *folder.rglob('*'))
    }


@pytest.fixture(scope='module')
def given(tmp_path_factory) -> Path:
    """A work dir with config, checkpoints, logs and images, which nobody may write to."""
    folder = tmp_path_factory.mktemp('strangers') / 'given'
    add_start(folder, '20260101_100000', train_rows(0, 20))
    write_checkpoint(folder / 'mirl.pth', write_config(folder / 'mirl.py', MIRL))
    write_classes(folder / 'data', ('blue', 'red', 'grey'))
    cfg = load_config(str(ROOT / 'configs/finetune/vit-test_2e_classes.py'))
    init_default_scope(cfg.default_scope)
    meta = dict(dataset_meta=dict(classes=['a\x1b]0;x\x07', 'b', 'c', 'd']))
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'cls.pth')
    folders = [folder, *(path for path in folder.rglob('*') if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


@pytest.mark.parametrize('name', TOOLS)
def test_reading_is_never_writing(given, name, monkeypatch, capsys):
    tool, *arguments = TOOLS[name]
    (place := given.parent / name).mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    before = state(given)
    assert len(before) > 20
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert state(given) == before
    assert len(list(place.rglob('*'))) > 0  # the result is elsewhere
    assert '\x1b' not in capsys.readouterr().out


def test_what_cannot_be_seen_is_an_escape():
    assert visible('a\tb\nc é 漢 <b>') == 'a\tb\nc é 漢 <b>'
    assert visible('\x1b]0;x\x07\r\x00\u202e\u2066\u2028\udcff') == (
        r'\x1b]0;x\x07\r\x00\u202e\u2066\u2028\udcff'
    )


def test_an_error_is_one_line_whatever_it_names(monkeypatch):
    def main() -> None:
        raise UserError('no file a\x1b[2J\nerror: all is well\u202e')

    with pytest.raises(SystemExit) as stop:
        one_line(main)
    assert stop.value.code == r'error: no file a\x1b[2J\nerror: all is well\u202e'


def test_a_card_shows_text():
    evil = '<img src=x onerror=alert(1)> [x](javascript:alert(1)) `a` | *b* __c__ a_b\n# d\u202e\\'
    facts = dict(rows=dict(data=evil), source=evil, licence='mit', arch='A', mirl_mm_version='1')
    text = card("timm.create_model('local-dir:out')", facts | dict(mean=0, std=1, origin='o'))
    assert not re.search(r'<|\]\(|^# d|`|\*b|__c|\u202e', text, re.M)
    (row,) = (line for line in text.splitlines() if line.startswith('| data |'))
    assert row.count('|') == 3 and 'a_b # d&#92;u202e' in row
    assert plain('a_b, torch 2.11.0 (x-1)') == 'a_b, torch 2.11.0 (x-1)'


def test_a_curve_of_any_name_is_drawn(tmp_path):
    for name in ('$x^{$', '\x00\u202e', 'n' * 100_000):
        curves = curve([(1, 2.0), (2, 3.0)], name, 'run-0')
        draw_charts([chart('a', 'b', curves)], tmp_path / 'c.png')
    assert curve([(1, 2.0)], '\u202e', 'run-0')[0]['name'] == r'\u202e'
    assert sorted(['a_10', 'a_' + '9' * 5000, 'a_9'], key=natural)[:2] == ['a_9', 'a_10']


@pytest.mark.parametrize('name', ['../shard-00000.tar', '/etc/passwd', 'a/../../b.tar', '..'])
def test_a_packed_folder_reaches_nothing_outside(tmp_path, name):
    write_classes(tmp_path / 'images', ('red',))
    pack_images(tmp_path / 'images', tmp_path / 'packed')
    manifest = json.loads((tmp_path / 'packed' / MANIFEST).read_text())
    manifest['shards'][0]['file'] = name
    (tmp_path / 'packed' / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PackedError, match=r'names of files beside it|is missing'):
        Packed(tmp_path / 'packed')


@pytest.mark.parametrize('name', ['../images/red/0.png', '/red/0.png', 'red/../../x.png'])
def test_no_name_leaves_a_packed_folder(tmp_path, name):
    write_classes(tmp_path / 'images', ('red',))
    with pytest.raises(UserError, match='would leave the folder; accepted are names below'):
        pack_images(tmp_path / 'images', tmp_path / 'packed', [name])
    assert not (tmp_path / 'packed').exists()


@pytest.mark.parametrize('name', ['../outside.pth', '{}/outside.pth'])
def test_an_index_of_shards_reaches_nothing_outside(tmp_path, name):
    torch.save(dict(secret=torch.ones(2)), tmp_path / 'outside.pth')
    (tmp_path / 'in').mkdir()
    index = tmp_path / 'in/model.safetensors.index.json'
    index.write_text(json.dumps(dict(weight_map=dict(secret=name.format(tmp_path)))))
    with pytest.raises(FileNotFoundError, match=r'there is no .*/in/outside\.pth'):
        open_checkpoint(index)
