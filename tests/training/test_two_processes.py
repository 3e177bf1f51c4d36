"""What a config line changes about two processes: neither losses nor weights, nor what is saved."""

import json
from pathlib import Path

import pytest
import torch

from mirl_mm.checkpoint import read_checkpoint
from mirl_mm.demo.scene_set import write_scenes

from .test_training import CONFIG, ROOT, run

pytestmark = [pytest.mark.xdist_group('training'), pytest.mark.long]

AOT = "compile_blocks=dict(backend='aot_eager'), with_cp=True"  # compiles without C++
LINES = {
    'zero': "dict(optimizer=dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW'))",
    'compiled': f'dict(backbone=dict({AOT}), neck=dict({AOT}))',
}


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('two_processes')


@pytest.fixture(scope='module')
def scenes(root) -> Path:
    return write_scenes(root / 'scenes', 16, 4, size=64).root


@pytest.fixture(scope='module')
def plain(root, scenes) -> dict:
    return train(root, scenes, 'plain', '')


def train(root: Path, scenes: Path, name: str, lines: str, *words: str) -> dict:
    """Two processes, two epochs of two iterations; losses and weights."""
    config = root / f'{name}.py'
    config.write_text(f"""
_base_ = ['{CONFIG}']
custom_imports = dict(imports=['mirl_mm', 'seeded'], allow_failed_imports=False)
train_dataloader = dict(batch_size=4, dataset=dict(
    data_root='{scenes}', pipeline={{{{_base_.test_pipeline}}}}))
val_dataloader = None
val_evaluator = None
val_cfg = None
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
log_processor = dict(window_size=1)
custom_hooks = [dict(type='RecordLosses', path='{root}/{name}.json')]
model = dict(type='MIRLWithFixedMasks')
{lines}
""")
    run(
        'bash', ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', root / name, *words, cwd=root
    )  # fmt: skip
    return json.loads((root / f'{name}.json').read_text())


@pytest.mark.parametrize(
    ('name', 'lines'),
    [
        ('zero', f'optim_wrapper = {LINES["zero"]}'),
        (
            'compiled',
            f'model.update({LINES["compiled"]})\nmodel_wrapper_cfg = dict(static_graph=True)',
        ),
    ],
)
def test_losses_weights_and_checkpoints(name, lines, root, scenes, plain):
    """ZeRO; and blocks that are compiled and checkpointed, under a static graph."""
    found = train(root, scenes, name, lines)
    assert len(plain['losses']) == 4
    assert plain['losses'][-1] < plain['losses'][0]
    assert found['losses'] == pytest.approx(plain['losses'], rel=1e-5)
    assert found['norms'] == pytest.approx(plain['norms'], rel=1e-4, abs=1e-6)

    log = next((root / name).glob('*/vis_data/scalars.json')).read_text()
    logged = [json.loads(line)['loss'] for line in log.splitlines()]
    assert logged == pytest.approx(found['losses'], rel=1e-6)  # of both processes

    states = [
        torch.load(root / run / 'epoch_2.pth', weights_only=False)['optimizer']['state']
        for run in ('plain', name)
    ]
    assert states[0].keys() == states[1].keys()
    for i, values in states[0].items():
        torch.testing.assert_close(states[1][i], values, rtol=1e-2, atol=1e-6)
    weights = [read_checkpoint(root / run / 'epoch_2.pth')[0] for run in ('plain', name)]
    assert weights[0].keys() == weights[1].keys()

    more = train(root, scenes, name, lines, '--resume', str(root / name / 'epoch_1.pth'))
    assert more['losses'] == pytest.approx(found['losses'][2:], rel=1e-5)
