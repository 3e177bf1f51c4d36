"""A NaN on one of two processes: both leave the update out, and say where it began."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.xdist_group('faults')

JOBS = """
import json, sys
from pathlib import Path
import mmpretrain.models
from benchmarks.faults.run import NAN
from benchmarks.faults.scenarios import Bench

bench, found = Bench(Path(sys.argv[1])), {}
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
    found[name] = dict(codes=job.wait(), output=job.output(), work_dir=str(job.work_dir))
print(json.dumps(found))
"""


@pytest.fixture(scope='module')
def jobs(tmp_path_factory) -> dict:
    """Exit codes, output and final weights of four jobs, which share one start."""
    folder = tmp_path_factory.mktemp('two')
    done = subprocess.run(
        [sys.executable, '-c', JOBS, str(folder)],
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for job in found.values():
        file = Path(job['work_dir']) / 'iter_30.pth'
        job['state'] = torch.load(file, weights_only=False) if file.is_file() else None
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
