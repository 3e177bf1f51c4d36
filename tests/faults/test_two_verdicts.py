"""A NaN on one of two processes: both leave the update out, and say where it began."""

from pathlib import Path

import pytest
import torch

from benchmarks.faults.bench import Bench
from benchmarks.faults.run import NAN
from tests.processes import in_clean_process

pytestmark = pytest.mark.xdist_group('faults')


@pytest.fixture(scope='module')
def jobs(tmp_path_factory) -> dict:
    """Exit codes, output and final weights of four jobs."""
    return in_clean_process(four_jobs, tmp_path_factory.mktemp('two'))


def four_jobs(folder: Path) -> dict:
    bench, found = Bench(folder), {}
    quiet = dict(default_hooks__logger__interval=8, default_hooks__checkpoint__interval=30)
    skip = dict(quiet, default_hooks__finite__policy='skip')
    zero = dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')
    for name, iteration, settings in (
        ('stop', 14, quiet),
        ('skip', 14, skip),
        ('zero', 14, skip | dict(optim_wrapper__optimizer=zero)),
        ('none', 99, skip),
    ):
        job = bench.job(2, environ={NAN: f'1,2,{iteration}'}, **settings)
        job.start(None)
        found[name] = dict(codes=job.wait(), output=job.output())
        file = Path(job.work_dir) / 'iter_30.pth'
        found[name]['state'] = torch.load(file, weights_only=False) if file.is_file() else None
    return found


BLAME = 'the loss is nan: the first bad value is in the output of backbone.layers.2 (segment_1)'


def test_both_stop_with_what_one_has_found(jobs):
    output = jobs['stop']['output']
    assert 0 not in jobs['stop']['codes'] and jobs['stop']['state'] is None
    for rank in (0, 1):
        assert output.count(f'process {rank} of 2: error: iteration 14: {BLAME}') == 1


def test_zero_hands_the_verdict_to_its_optimizer(jobs):
    weights = {name: jobs[name]['state']['ema_state_dict'] for name in ('skip', 'zero', 'none')}
    assert all(jobs[name]['codes'] == [0, 0] for name in weights)
    for name in ('skip', 'zero'):
        assert 'iteration 15: update left out, since a gradient is not' in jobs[name]['output']
    torch.testing.assert_close(weights['zero'], weights['skip'], rtol=1e-4, atol=1e-6)
    key = 'module.backbone.layers.0.attn.qkv.weight'
    assert (weights['none'][key] - weights['skip'][key]).abs().max() > 1e-3
