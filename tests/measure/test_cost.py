"""The trace against operations counted by hand, and the step's stored cost."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from mirl_mm.measure.cost import LAUNCH, Cost, LikeCUDA, Operation, Trace, cost
from mirl_mm.measure.memory import probe
from mirl_mm.measure.peak_rate import GPUS, Device
from mirl_mm.measure.rehearsal import rehearse

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parents[1] / 'data' / 'step_cost.json'


def traced(run) -> list[Operation]:
    with Trace() as trace:
        run()
    return trace.operations


def test_operations_by_hand():
    a, b = torch.ones(6, 4), torch.ones(4, 5)
    assert traced(lambda: a @ b) == [Operation('mm', 2 * 6 * 4 * 5, 4 * (24 + 20 + 30))]
    assert traced(lambda: a.t().reshape(8, 3)) == [Operation('clone', 0, 4 * 48)]
    assert traced(lambda: a.view(3, 8)[1:].unsqueeze(0).detach()) == []
    assert traced(lambda: torch.empty_like(a)) == []
    assert traced(lambda: a.add_(1)) == [Operation('add_', 0, 4 * 48)]
    assert traced(lambda: a.copy_(a.new_empty(6, 4))) == [Operation('copy_', 0, 4 * 48)]
    assert traced(lambda: a.zero_()) == [Operation('zero_', 0, 4 * 24)]
    assert traced(lambda: torch.ones(7)) == [Operation('ones', 0, 28)]
    half = a.bfloat16()
    assert traced(lambda: torch.mul(a, 2, out=half)) == [Operation('mul', 0, 24 * 6)]
    assert traced(lambda: torch._foreach_copy_([a, b], [a + 0, b + 0]))[2:] == [
        Operation('_foreach_copy_', 0, 2 * 4 * 44)
    ]


def test_an_expanded_tensor_is_read_once():
    row = torch.ones(1, 8)
    assert traced(lambda: row.expand(100, 8) + 1) == [Operation('add', 0, 4 * (8 + 800))]


def test_both_passes_of_attention():
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (4, 5, 5))
    operations = traced(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    product = 2 * 2 * 3 * 4 * 5 * 8
    assert [each.flops for each in operations if each.flops] == [2 * product, 5 * product]


def test_what_changes_ignored_tensors_is_left_out():
    layer = nn.Linear(3, 2)
    layer.weight.grad, layer.bias.grad = torch.zeros(2, 3), torch.zeros(2)

    def step() -> None:
        layer(torch.ones(4, 3)).sum().backward()

    with Trace(p.grad for p in layer.parameters()) as trace:
        step()
    names = [each.name for each in trace.operations]
    assert 'add_' not in names and len(names) == len(traced(step)) - 2


def test_autocast_norms_in_float32_on_a_gpu():
    norm, x = nn.LayerNorm(4), torch.ones(2, 4, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
        with LikeCUDA():
            assert norm(x).dtype == torch.float32
    with LikeCUDA():
        assert norm(x.float()).dtype == torch.float32


def test_the_longest_of_three_counts():
    device = Device(flops=1e12, bandwidth=1e9, memory=0)
    operations = [
        Operation('product', int(5e9), 1000),  # 5 ms
        Operation('copy', 0, int(3e6)),  # 3 ms
        Operation('small', 1, 1),
    ]
    found = cost(operations, device)
    assert found == Cost(3, 3001001, 5000000001, pytest.approx(8e-3 + LAUNCH))


def test_every_gpu_has_plausible_rates():
    for name, gpu in GPUS.items():
        assert 70 < gpu.flops / gpu.bandwidth < 500, name  # operations a byte
        assert 16e9 <= gpu.memory <= 141e9, name


def test_any_batch_lies_on_the_line_through_two():
    model = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    model.backbone.arch = dict(embed_dims=48, num_layers=6, num_heads=3, feedforward_channels=192)
    through = probe(model, (3, 5)).operations(7)
    assert through == rehearse(model, 7).operations


@pytest.mark.parametrize(
    'arch, batch', [('s54', 256), pytest.param('b48', 64, marks=pytest.mark.long)]
)
def test_the_stored_cost_of_a_step(arch, batch):
    """Like a golden loss: it changes on purpose alone, and then the commit says why.

    It falls, or rises by at most 0.5 % where code goes away.
    """
    model = Config.fromfile(str(ROOT / f'configs/mirl/vit-{arch}_300e.py')).model
    found = cost(rehearse(model, batch).operations, GPUS['H200'])
    stored = json.loads(STORED.read_text())[f'{arch}, batch {batch}, bfloat16']
    assert [found.kernels, found.bytes, found.flops] == [
        stored['kernels'], stored['bytes'], stored['flops']
    ]  # fmt: skip
