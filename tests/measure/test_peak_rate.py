import pytest
import torch

from mirl_mm.measure.peak_rate import known_gpu, measured_rate, peak_rate


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
    rate = peak_rate('cpu')
    assert rate.flops > 1e8
    assert rate.source.startswith('measured: a float32 matrix product')
    assert torch.equal(torch.get_rng_state(), state)


def test_it_measures_what_it_multiplied():
    """Two measurements on an idle or busy machine agree within an order of magnitude."""
    first, second = (measured_rate(torch.device('cpu'), torch.float32, 0.1) for _ in range(2))
    assert 0.1 < first / second < 10
