"""Pieces of the stages."""

import contextlib
import json
import subprocess
from argparse import Namespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import dense_step, ideas, images
from benchmarks.gpu import end_to_end, pretrain, resumed
from benchmarks.gpu.device import profile_of, watched_waits
from benchmarks.gpu.stage import LeftOut
from benchmarks.gpu.stages import STAGES
from benchmarks.pretrain_step import loss_of
from mirl_mm.measure.rehearsal import usable
from mirl_mm.models.dense import resizing_matrix
from mirl_mm.models.masking import sincos_positions
from tests.gpu.small import bench


def test_too_little_shared_memory(monkeypatch):
    monkeypatch.setattr(end_to_end.shutil, 'disk_usage', lambda _: Namespace(free=64e6))
    with pytest.raises(LeftOut, match='16 workers with batches of 256 need about'):
        end_to_end.check_shared_memory(256, 16)


def test_parts_have_names_of_their_own_and_real_models_can_be_built():
    for each in STAGES.values():
        for rehearse in (False, True):
            names = [p.name for p in each.parts(rehearse)]
            assert names and len(set(names)) == len(names)
            json.dumps(each.sizes(rehearse))
    for arch in ('s54', 'b48'):
        made = pretrain.built(arch, bench(device='meta'), ['mae', 'plain', 'compiled'])
        assert {p.device.type for model in made.values() for p in model.parameters()} == {'meta'}
        for name in ('mae', 'plain'):
            pretrain.compile_blocks(made[name], 'eager')


@contextlib.contextmanager
def pretended_gpu(monkeypatch):
    """Tensors without contents that say they are on a GPU; an operation across devices fails."""
    monkeypatch.setattr(torch.nn.Module, 'to', lambda self, *_, **__: self)
    caches = (sincos_positions, resizing_matrix, images.statistics)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            [each.cache_clear() for each in caches]
            yield
    finally:
        [each.cache_clear() for each in caches]  # what was made on the way has no contents


def test_everything_lies_on_the_gpu(monkeypatch):
    with pretended_gpu(monkeypatch):
        imgs = torch.randn(2, 3, 224, 224, device='cuda')
        made = pretrain.built('s12', bench(device='cuda'), ['checkpointed', 'plain'])
        losses = {name: loss_of(model, imgs) for name, model in made.items()}
        for name in ideas.UNDONE:
            with ideas.undone(name):
                losses[name] = loss_of(made['mirl'], imgs)
        with torch.device('cuda'):
            encoders = dense_step.encoders('b12', None, True, init=False)
        large = torch.randn(1, 3, 1024, 1024, device='cuda')
        losses |= {name: model(large)[0] for name, model in encoders.items()}
        pixels = torch.ones(4, 3, 16, 16, dtype=torch.uint8, device='cuda')
        losses['crops'] = images.normalised(images.random_crops(pixels, None))
        assert len(losses) == 3 + len(ideas.UNDONE) + 4 + 1
        assert {value.device.type for value in losses.values()} == {'cuda'}


@pytest.mark.parametrize('gb', [24, 80])
def test_the_largest_batches_of_the_memory_table_are_estimated_to_fill_the_gpu(gb):
    table = json.loads((pretrain.ROOT / 'benchmarks/results/largest_batch.json').read_text())
    for name, setting in dict(mirl='plain', checkpointed='with_cp').items():
        largest = table['archs']['s54'][setting]['largest'][str(gb)]
        estimate = pretrain.estimated_gb('s54', largest, name)
        assert estimate == pytest.approx(usable(gb) / 1e9, rel=0.01)
    assert pretrain.estimated_gb('s54', 256, 'mae') is None


def test_what_does_not_fit_is_left_out():
    def too_large() -> None:
        raise torch.OutOfMemoryError('CUDA out of memory')

    runs, made = dict(mirl=lambda: None, plain=too_large), dict(mirl=0, plain=0)
    seconds, dropped = pretrain.first_steps(runs, made, 'cpu')
    assert list(seconds) == list(runs) == list(made) == ['mirl'] and dropped == ['plain']
    with pytest.raises(LeftOut, match='out of memory: CUDA out of memory'):
        pretrain.first_steps(dict(mirl=too_large), dict(mirl=0), 'cpu')


def test_a_profile_counts_and_names():
    a = torch.randn(300, 300)
    found = profile_of(lambda: [a @ a for _ in range(20)], 'cpu', rows=2)
    assert found['operations'][0]['name'] in ('mm', 'matmul')
    assert found['operations'][0]['calls'] == 20
    assert found['kernels'] >= 40 and len(found['operations']) == 2


def test_waits_are_counted_by_the_line_that_asks():
    x = torch.ones(2)
    with watched_waits('cpu') as found:
        for _ in range(3):
            x.sum().item()
        x + x
    ((line, count),) = found.items()
    assert count == 3
    assert line.startswith('tests/gpu/test_parts.py:') and line.endswith(
        ' test_waits_are_counted_by_the_line_that_asks'
    )


@pytest.mark.parametrize('twice', [False, True])
def test_a_killed_run_against_an_undisturbed_one(twice, tmp_path, monkeypatch):
    """A shell script takes the place of the trainings; it leaves what they leave."""
    script = """
        mkdir -p "$1/log"
        if [ -e "$1/last_checkpoint" ]; then
            echo 'resuming from iter_2.pth' >"$1/log/a.log"; n=12
        elif [ "$(basename "$1")" = killed ]; then n=2; else n=12; fi
        echo "$1/iter_$n.pth" >"$1/last_checkpoint"
        [ $n = 12 ] || { setsid sleep 60 & sleep 60; }
    """
    states = {'killed': 1.0, 'undisturbed': 1.0, 'undisturbed-again': 1.5}

    def start(folder, name):
        (folder / name).mkdir(exist_ok=True)
        torch.save(
            dict(state_dict=dict(w=torch.tensor([states[name]]))), folder / name / 'iter_12.pth'
        )
        return subprocess.Popen(['bash', '-c', script, 'bash', str(folder / name)])

    monkeypatch.setattr(resumed, 'start', start)
    found = resumed.compare(bench(), twice, 4)
    assert found['resumed'] == dict(equal=True, first_difference='', relative=0.0)
    assert found['says'].startswith('gloo, against an undisturbed run: resumed equal to the bit')
    assert ('again' in found) == twice
    if twice:
        assert found['again']['first_difference'] == 'state_dict.w'
        assert found['again']['relative'] == 0.5
