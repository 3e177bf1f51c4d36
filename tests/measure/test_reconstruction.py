import pytest

from mirl_mm.measure import ReconstructionError


def test_errors_are_means_over_all_images():
    metric = ReconstructionError()
    for size, start in ((2, 1.0), (1, 6.0)):
        samples = [
            dict(recon_error=start + i, pair_0_1=10 * (start + i), img_path='x')
            for i in range(size)
        ]
        metric.process({}, samples)
    assert metric.evaluate(3) == pytest.approx({'recon/error': 3.0, 'recon/pair_0_1': 30.0})
