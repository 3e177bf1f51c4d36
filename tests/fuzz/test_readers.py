"""Damaged files, drawn from seeds: every reader works, or says in one line what is wrong."""

import gc
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from mirl_mm.errors import UserError

from . import trial
from .readers import READERS
from .trial import Reader, damaged, faults

ROWS = [pytest.param(n, marks=[pytest.mark.dense] * row.dense) for n, row in READERS.items()]
MORE = 30  # times as many are `long`


@pytest.fixture(scope='module', autouse=True)
def quick_collections():
    """BaseDataset collects garbage whenever it lists: not through what other tests have left."""
    gc.collect()
    gc.freeze()


def try_damaged(name: str, folder: Path, numbers: range) -> None:
    reader, refused = READERS[name], 0
    (folder / 'seed').mkdir()
    path = reader.seed(folder / 'seed')
    sound = path.read_bytes()
    faults(reader, path, sound)  # what is imported and made once is of no interest
    assert faults(reader, path, sound) == ('', '')
    for number in numbers:
        content = damaged(name, number, reader, sound)
        fault, said = faults(reader, path, content)
        if fault:
            (kept := folder / f'damaged_{path.name}').write_bytes(content)
            again = f'python -m tests.fuzz {name!r} {number}'
            pytest.fail(f'{name}, number {number}: {fault}\nThe file is {kept}; again: {again}')
        refused += bool(said)
    assert refused > len(numbers) / 50 or not reader.refuses


@pytest.mark.parametrize('name', ROWS)
def test_damaged_files(name, tmp_path):
    try_damaged(name, tmp_path, range(READERS[name].count))


@pytest.mark.long
@pytest.mark.parametrize('name', ROWS)
def test_more_damaged_files(name, tmp_path):
    count = READERS[name].count
    try_damaged(name, tmp_path, range(count, MORE * count))


# --- what a reader must not do is seen ------------------------------------------------------------


def ends_in(error: BaseException) -> None:
    raise error


WRONG = {
    'KeyError': (lambda path, out: {}['a'], 'KeyError'),
    'MemoryError': (lambda path, out: np.ones(1 << 32, np.uint8), 'MemoryError'),
    'a value': (lambda path, out: ends_in(ValueError('x')), 'ValueError: x'),
    'a shell': (lambda path, out: os.system('true'), 'it does os.system'),
    'a program': (lambda path, out: subprocess.run(['true']), 'it does subprocess.Popen'),
    'code': (lambda path, out: eval('len(str())'), "it does exec('<string>', ('len', 'str'))"),
    'a file': (lambda path, out: path.with_name('x').touch(), 'it does open'),
    'a folder': (lambda path, out: path.with_name('x').mkdir(), 'it does os.mkdir'),
    'the file': (lambda path, out: path.write_bytes(b'x'), 'it does open'),
    'no file': (lambda path, out: path.rename(out / 'x'), 'it does os.rename'),
}


@pytest.mark.parametrize('kind', WRONG)
def test_what_is_wrong_is_seen(tmp_path, kind):
    read, words = WRONG[kind]
    (tmp_path / 'seed').mkdir()
    (path := tmp_path / 'seed' / 'file').touch()
    fault, said = faults(Reader(lambda folder: path, read), path, b'content')
    assert words in fault and not said


def test_what_may_be_done(tmp_path):
    (tmp_path / 'seed').mkdir()
    (path := tmp_path / 'seed' / 'file').touch()

    def read(path: Path, out: Path) -> None:
        assert path.read_bytes() == b'content'
        (out / 'x').write_text('y')
        (out / 'x').unlink()
        raise UserError('no such thing')

    assert faults(Reader(lambda folder: path, read), path, b'content') == ('', 'no such thing')
    assert path.read_bytes() == b''


def test_what_takes_long_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, 'SECONDS', 0.1)
    (tmp_path / 'seed').mkdir()
    (path := tmp_path / 'seed' / 'file').touch()
    fault, _ = faults(Reader(lambda folder: path, lambda path, out: time.sleep(20)), path, b'')
    assert fault.startswith('Slow')


def test_damage_comes_from_the_seed():
    sound = bytes(range(256)) * 4
    reader = READERS['torch']
    first, again = ([damaged('torch', i, reader, sound) for i in range(200)] for _ in range(2))
    assert first == again
    assert len({*first}) > 190 and sound not in first
    assert len({len(content) for content in first}) > 20
