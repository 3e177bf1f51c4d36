"""An optimizer whose state is spread over processes (ZeRO): same training, whole checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from mirl_mm.checkpoint import read_checkpoint
from mirl_mm.datasets.scene_set import write_scenes

from .test_training import CONFIG, ROOT, run

pytestmark = pytest.mark.xdist_group('training')

OPTIMIZER = "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')"
ZERO = f'optim_wrapper = dict(optimizer={OPTIMIZER})'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp('data') / 'scenes', 16, 4, size=64).root


def train(root: Path, scenes: Path, name: str, line: str, *words: str) -> dict:
    """Two processes, two epochs of two iterations; losses and weights."""
    config = root / f'{name}.py'
    config.write_text(f"""
_base_ = ['{CONFIG}']
custom_imports = dict(imports=['mirl_mm', 'seeded'], allow_failed_imports=False)
model = dict(type='MIRLWithFixedMasks')
train_dataloader = dict(batch_size=4, dataset=dict(
    data_root='{scenes}', pipeline={{{{_base_.test_pipeline}}}}))
val_dataloader = None
val_evaluator = None
val_cfg = None
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = [dict(type='RecordLosses', path='{root}/{name}.json')]
{line}
""")
    run(
        'bash', ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', root / name, *words, cwd=root
    )  # fmt: skip
    return json.loads((root / f'{name}.json').read_text())


def test_losses_weights_and_checkpoints(tmp_path, scenes):
    plain = train(tmp_path, scenes, 'plain', '')
    zero = train(tmp_path, scenes, 'zero', ZERO)
    assert len(plain['losses']) == 4
    assert plain['losses'][-1] < plain['losses'][0]
    assert zero['losses'] == pytest.approx(plain['losses'], rel=1e-6)
    assert zero['norms'] == pytest.approx(plain['norms'], rel=1e-5, abs=1e-7)

    states = [
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)['optimizer']['state']
        for name in ('plain', 'zero')
    ]
    assert states[0].keys() == states[1].keys()
    for i, values in states[0].items():
        torch.testing.assert_close(states[1][i], values, rtol=1e-4, atol=1e-7)
    assert read_checkpoint(tmp_path / 'zero' / 'epoch_2.pth')[1]['form'] == 'mirl_mm'

    more = train(tmp_path, scenes, 'zero', ZERO, '--resume', str(tmp_path / 'zero' / 'epoch_1.pth'))
    assert more['losses'] == pytest.approx(zero['losses'][2:], rel=1e-6)
