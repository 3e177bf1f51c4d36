"""Traces and counts by hand and as torch counts them, and the step's stored cost."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mirl_mm.measure.cost import (
    GPUS,
    LAUNCH,
    Cost,
    Device,
    Flops,
    LikeCUDA,
    LiveBytes,
    Operation,
    Trace,
    cost,
    flops,
    known_gpu,
    measured_rate,
    peak_rate,
)
from mirl_mm.measure.rehearsal import flops_per_image, probe, rehearse
from mirl_mm.models.archs import ARCHS
from tests.models.build import mirl
from tests.models.downstream import build, classifier

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


def test_live_bytes_by_hand():
    with LiveBytes() as live:
        first = torch.ones(1000)
        second = first * 2
        view = second[:10]
        assert (live.now, live.peak) == (8000, 8000)
        del first
        assert (live.now, live.peak) == (4000, 8000)
        del second
        assert live.now == 4000  # the view holds it
        del view
        assert (live.now, live.peak) == (0, 8000)


# --- the model's work -----------------------------------------------------------------------------

ARCH = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=160)


def mae() -> nn.Module:
    return build(
        'mmpretrain',
        dict(
            type='MAE',
            backbone=dict(type='MAEViT', arch=ARCH, img_size=64, mask_ratio=0.75),
            neck=dict(
                type='MAEPretrainDecoder',
                num_patches=16,
                embed_dim=48,
                decoder_embed_dim=32,
                decoder_depth=2,
                decoder_num_heads=4,
            ),
            head=dict(
                type='MAEPretrainHead',
                norm_pix=True,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'),
            ),
        ),
    )


def loss_of(model: nn.Module, batch: int):
    imgs = torch.randn(batch, 3, 64, 64)
    samples = [DataSample().set_gt_label(i) for i in range(batch)]
    return lambda: model.train()(imgs, samples, mode='loss')['loss']


def counted(model: nn.Module, batch: int) -> Flops:
    """As torch counts them, watching every operation of both passes."""
    with sdpa_kernel(SDPBackend.MATH):  # the only one that the counter knows on a CPU
        with FlopCounterMode(display=False) as forward:
            loss = loss_of(model, batch)()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    first = forward.get_total_flops()
    return Flops(first, first + backward.get_total_flops())


def frozen_classifier() -> nn.Module:
    """A linear probe: nothing but the head is trained."""
    model = classifier()
    model.backbone.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    'make',
    [
        mirl,
        lambda: mirl(decoder_depth=2, segments=2, mask_ratio=0.6),
        mae,
        classifier,
        frozen_classifier,
    ],
    ids=['mirl', 'mirl-two-blocks', 'mae', 'classifier', 'probe'],
)
def test_as_torch_counts(make):
    model = make()
    assert flops(loss_of(model, 2)) == counted(model, 2)
    with sdpa_kernel(SDPBackend.MATH):
        assert flops(loss_of(model, 2)) == counted(model, 2)


def test_a_config_without_data_or_weights():
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    model = build('mmpretrain', cfg)
    found = counted(model, 4)
    assert flops_per_image(cfg, 4) == Flops(found.forward / 4, found.training / 4)


def test_what_a_batch_shares_is_spread_over_it():
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    share = 3 * 2 * 6 * 16 * 3 * 32**2  # passes, multiply and add, decoders, patches, q k v
    alone = flops_per_image(cfg, 1).training
    assert flops_per_image(cfg, 4).training == alone - share * 3 / 4


@pytest.mark.parametrize('setting', ['with_cp', 'compile_blocks'])
def test_settings_do_not_change_the_models_work(setting):
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    wanted = flops_per_image(cfg, 2)
    cfg.backbone[setting] = cfg.neck[setting] = True
    assert flops_per_image(cfg, 2) == wanted


def test_the_work_of_other_pairings_and_of_decoders_without_context():
    """Without context, the projection of the stem and every cross-attention are saved."""
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    whole = flops_per_image(cfg, 2)
    for pairing in ('neighbours', 'none'):
        cfg.head.pairing = pairing
        assert flops_per_image(cfg, 2) == whole
    cfg.neck.context = False
    found, visible, masked, width = flops_per_image(cfg, 2), 5, 12, 32
    saved = visible * 48 * width  # multiply-adds: the stem's projection,
    for g in range(6):  # then queries and output, keys and values, both products of attention
        context = (1 + g) * visible
        saved += 2 * masked * width**2 + 2 * context * width**2 + 2 * masked * context * width
    assert whole.forward - found.forward == 2 * saved
    assert whole.training - found.training == 3 * 2 * saved


@pytest.mark.parametrize('pairing', ['neighbours', 'none'])
def test_the_rehearsal_of_other_pairings(pairing):
    """A step on fake tensors, in bfloat16: gradients of all weights, fewer kernels."""
    cfg = Config.fromfile(str(ROOT / 'configs/mirl/vit-test_2e.py')).model
    whole = rehearse(cfg, 2)
    cfg.head.pairing, cfg.neck.context = pairing, False
    found = rehearse(cfg, 2)
    assert 0 < found.peak < whole.peak and found.trainable < whole.trainable
    assert len(found.operations) < len(whole.operations)


@pytest.mark.parametrize('arch, billions', [('s54', 20.49), ('b48', 69.91), ('b12', 17.56)])
def test_multiply_adds_of_the_published_sizes(arch, billions):
    """The encoder alone at 224 pixels, unmasked; the figures count the attention products too."""
    head = dict(type='LinearClsHead', num_classes=2, in_channels=ARCHS[arch]['embed_dims'])
    cfg = dict(type='ImageClassifier', backbone=dict(type='MIRLViT', arch=arch), head=head)
    assert flops_per_image(cfg, 1).forward / 2e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(
    'name, tflops',
    [
        ('NVIDIA A100-SXM4-80GB', 312),
        ('NVIDIA A10', 125),
        ('NVIDIA H100 80GB HBM3', 989),
        ('NVIDIA H100 PCIe', 756),
        ('Tesla V100-SXM2-32GB', 125),
        ('Tesla T4', 65),
        ('NVIDIA GeForce RTX 4090', 165.2),
    ],
)
def test_known_devices(name, tflops):
    assert known_gpu(name).flops == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize('name', ['NVIDIA GeForce RTX 2060', 'NVIDIA A1000', 'something else'])
def test_unknown_devices(name):
    assert known_gpu(name) is None


def test_a_cpu_is_measured():
    state = torch.get_rng_state()
    rate, source = peak_rate('cpu')
    assert rate > 1e8
    assert source.startswith('measured: a float32 matrix product')
    assert torch.equal(torch.get_rng_state(), state)


def test_it_measures_what_it_multiplied():
    """Two measurements on an idle or busy machine agree within an order of magnitude."""
    first, second = (measured_rate(torch.device('cpu'), torch.float32, 0.1) for _ in range(2))
    assert 0.1 < first / second < 10
