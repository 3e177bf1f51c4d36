import json

import numpy as np
import pytest
import torch

from mirl_mm.measure import depth
from mirl_mm.measure.depth import cached_features, probed_blocks, weights_of

VALUES = torch.arange(30, dtype=torch.float16).view(10, 3)


def batches(start, stop=10, calls=None):
    if calls is not None:
        calls.append(start)
    for i in range(start, stop, 4):
        yield VALUES[i : i + 4], torch.zeros(len(VALUES[i : i + 4]))


def test_computed_once_and_mapped(tmp_path):
    calls = []
    for _ in range(2):
        found = cached_features(tmp_path, dict(a=1), (10, 3), lambda done: batches(done, 10, calls))
        assert np.array_equal(found, VALUES.numpy()) and found.dtype == np.float16
        assert isinstance(found, np.memmap)
    assert calls == [0]
    cached_features(tmp_path, dict(a=2), (10, 3), lambda done: batches(done, 10, calls))
    assert calls == [0, 0]


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(depth, 'SAVE_EVERY', -1)

    def stopped(done):
        yield from batches(done, stop=8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, dict(a=1), (10, 3), stopped)
    assert json.loads(next(tmp_path.glob('*.json')).read_text()) == dict(key=dict(a=1), done=8)
    calls = []
    found = cached_features(tmp_path, dict(a=1), (10, 3), lambda done: batches(done, 10, calls))
    assert calls == [8]
    assert np.array_equal(found, VALUES.numpy())


def test_a_broken_note_starts_anew(tmp_path):
    cached_features(tmp_path, dict(a=1), (10, 3), batches)
    next(tmp_path.glob('*.json')).write_text('{')
    calls = []
    cached_features(tmp_path, dict(a=1), (10, 3), lambda done: batches(done, 10, calls))
    assert calls == [0]


def test_not_finite_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='features of images 0 to 1 are not finite'):
        cached_features(
            tmp_path, {}, (1, 3), lambda done: [(torch.full((1, 3), torch.nan), torch.zeros(1))]
        )


def test_digest_is_of_the_content(tmp_path):
    for name, content in (('a', b'x'), ('b', b'x'), ('c', b'y')):
        (tmp_path / name).write_bytes(content)
    a, b, c = (weights_of(tmp_path / name) for name in 'abc')
    assert a == b != c
    assert a.startswith('2d711642b726b044')  # sha256 of "x"


def test_blocks():
    assert probed_blocks(12, 1) == list(range(12))
    assert probed_blocks(12, 5) == [1, 6, 11]
    assert probed_blocks(54, 9) == [8, 17, 26, 35, 44, 53]  # the ends of s54's segments


def test_weights_of_a_folder_are_told_apart(tmp_path):
    for name, content in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_bytes(content)
    one, same, other = (weights_of(tmp_path / name) for name in 'abc')
    assert one == same != other
    assert one == weights_of(tmp_path / 'a/model.safetensors')
