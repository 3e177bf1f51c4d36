"""The benchmarks' own correctness: nothing is timed here."""

import json
import sys

import pytest
import torch

from benchmarks import dense_step, ideas, pretrain_step
from benchmarks.partitioned import PartitionedViT
from benchmarks.timing import Spent, alternate, peak_bytes, profiled, spread, summarise
from mirl_mm.models import MIRLDenseViT

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)


@pytest.mark.parametrize('window', [2, 3])
def test_the_partitioned_peer(window):
    """Where windows divide the map and there is no cls token, both ways are the same function."""
    settings = dict(img_size=48, patch_size=8, with_cls_token=False)
    vit = MIRLDenseViT(ARCH, window_size=window, **settings).double()
    vit.init_weights()
    imgs = torch.randn(2, 3, 48, 96, dtype=torch.float64)
    torch.testing.assert_close(PartitionedViT(vit)(imgs), vit(imgs), rtol=0, atol=1e-11)


def test_peers_of_pretraining_do_the_same_work():
    built = pretrain_step.models('test', 'cpu', ['mae', 'plain', 'checkpointed'])
    assert list(built) == ['mirl', 'mae', 'plain', 'checkpointed']
    imgs = torch.randn(4, 3, 64, 64)
    flops = {name: pretrain_step.flops_of(model, imgs) for name, model in built.items()}
    assert flops['mirl'] == flops['checkpointed'] < flops['plain']
    pretrain_step.step(built['mirl'], imgs, torch.float32)
    assert built['mirl'].backbone.layers[0].attn.qkv.weight.grad.norm() > 0
    kept = {
        name: peak_bytes(lambda m=m: pretrain_step.loss_of(m, imgs)) for name, m in built.items()
    }
    assert kept['checkpointed'] < kept['mirl'] < kept['plain']


def test_alternating_and_summing_up():
    order = []
    spent = alternate({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, rounds=2)
    assert order == ['a', 'b'] * 3
    assert list(spent) == ['matrix product', 'a', 'b']
    assert [len(each) for each in spent.values()] == [2, 2, 2]

    made = {
        'matrix product': [Spent(2.0, 1.0)] * 3,
        'ours': [Spent(w, c) for w, c in [(1, 10), (2, 10), (4, 10)]],
        'peer': [Spent(w, c) for w, c in [(2, 20), (2, 40), (2, 50)]],
    }
    result = summarise(made, 'ours', clock='cpu', flops=dict(ours=50 * 10**9))
    assert result['medians'] == dict(ours=10, peer=40)
    assert result['ratios'] == {'peer': spread([0.5, 0.25, 0.2])}
    assert result['ratios']['peer']['median'] == 0.25
    assert result['gflops'] == dict(ours=5.0)
    assert result['matrix_gflops'] == round(20 * 1024**3 / 1e9, 1)
    assert summarise(made, 'ours')['ratios']['peer']['all'] == [0.5, 1, 2]


def test_profile_names_what_takes_the_time():
    a = torch.randn(300, 300)
    rows = profiled(lambda: [a @ a for _ in range(20)])
    assert rows[0]['operation'] == 'mm'
    assert rows[0]['calls'] == 20
    assert rows[0]['share'] > 0.5


@pytest.mark.parametrize('name', ['mask-rcnn', 'upernet'])
def test_a_peer_that_is_not_installed(name, monkeypatch):
    package = dense_step.WHOLE[name][1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f'--whole {name} needs {package}: .*; leave {name} out'):
        dense_step.whole(name, 'test', 64, 1)


def test_a_benchmark_writes_its_numbers(tmp_path, monkeypatch, capsys):
    words = [
        '--arch',
        'test',
        '--batch',
        '2',
        '--rounds',
        '1',
        '--against',
        'mae',
        '--update',
        '--out',
    ]
    monkeypatch.setattr(sys, 'argv', ['pretrain_step', *words, str(tmp_path / 'x.json')])
    pretrain_step.main()
    assert 'ours / mae' in capsys.readouterr().out
    result = json.loads((tmp_path / 'x.json').read_text())
    assert {'date', 'hardware', 'threads', 'versions', 'config', 'seconds'} < result.keys()
    assert result['config']['against'] == ['mae']
    assert list(result['seconds']) == ['mirl', 'mae']
    assert list(result['with_update']['medians']) == ['mirl', 'mae']
    ratio = result['medians']['mirl'] / result['medians']['mae']
    assert result['ratios']['mae']['median'] == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize('name', ideas.UNDONE)
def test_an_idea_undone_changes_no_number(name, monkeypatch):
    model = pretrain_step.build('mirl', 'test').double()
    imgs = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    calls = []

    def noted(function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return call

    places = [(*place, noted(function)) for *place, function in ideas.UNDONE[name]]
    monkeypatch.setitem(ideas.UNDONE, name, places)

    def numbers() -> list[torch.Tensor]:
        torch.manual_seed(0)
        pretrain_step.step(model, imgs, torch.float32)  # no autocast
        return [p.grad for p in model.parameters() if p.grad is not None]

    expected = numbers()
    assert not calls
    with ideas.undone(name):
        found = numbers()
    assert calls
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
