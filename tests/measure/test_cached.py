import json

import numpy as np
import pytest
import torch

from mirl_mm.measure import cached
from mirl_mm.measure.cached import cached_features, cached_pass, weights_of

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
    monkeypatch.setattr(cached, 'SAVE_EVERY', -1)

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


def test_weights_of_a_folder_are_told_apart(tmp_path):
    for name, content in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_bytes(content)
    one, same, other = (weights_of(tmp_path / name) for name in 'abc')
    assert one == same != other
    assert one == weights_of(tmp_path / 'a/model.safetensors')


def test_a_pass_over_modules_and_optimizers_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, 'SAVE_EVERY', -1)
    target = torch.tensor([[1.0, -2.0]])

    def run(stop=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(2, 1)
        parts = dict(layer=layer, optimizer=torch.optim.Adam(layer.parameters(), 0.1))

        def steps(done):
            for step in range(done, 6):
                if step == stop:
                    raise KeyboardInterrupt
                parts['optimizer'].zero_grad()
                (layer(target) - step).square().sum().backward()
                parts['optimizer'].step()
                yield 1

        cached_pass(folder, dict(a=1), parts, 6, steps)
        return layer.weight.detach()

    folder = tmp_path / 'whole'
    whole = run()
    folder = tmp_path / 'stopped'
    with pytest.raises(KeyboardInterrupt):
        run(stop=4)
    assert torch.equal(run(), whole)
    assert torch.equal(run(stop=0), whole)  # nothing is left to do
    for content in (b'', b'x'):
        next(folder.glob('*.pth')).write_bytes(content)
        with pytest.raises(ValueError, match=r'\.pth is damaged .*: remove it to begin that pass'):
            run()
