"""What a user runs: training on one and two processes, testing, stock inferencers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed
from torch.distributed.elastic.utils.distributed import get_free_port

from mirl_mm.demo.scene_set import write_scenes
from tests.processes import run_forked

pytestmark = pytest.mark.xdist_group('training')  # one worker: the runs are shared

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/mirl/vit-test_2e.py'
LOSSES = Path(__file__).parents[1] / 'data/losses_vit-test.json'


def run(*command: object, cwd: Path) -> str:
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHON=sys.executable,
        PYTHONPATH=f'{ROOT}{os.pathsep}{Path(__file__).parent}',
        PORT=str(get_free_port()),
    )
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        text=True,
        timeout=240,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp('data') / 'scenes', 32, 12, size=64).root


@pytest.fixture(scope='module')
def trained(tmp_path_factory, scenes) -> tuple[Path, Path, str]:
    """(config, work dir, output) of a run on one process with validation."""
    root = tmp_path_factory.mktemp('trained')
    config = root / 'config.py'
    config.write_text(f"""
_base_ = ['{CONFIG}']
train_dataloader = dict(batch_size=8, dataset=dict(data_root='{scenes}'))
val_dataloader = dict(batch_size=8, dataset=dict(data_root='{scenes}'))
test_dataloader = dict(batch_size=5, dataset=dict(data_root='{scenes}'))
default_hooks = dict(logger=dict(interval=1))
""")
    (output,) = run_forked('train.py', config, '--work-dir', root / 'run', cwd=root)
    return config, root / 'run', output


def twenty_losses() -> list[float]:
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(8, 3, 8, 8, generator=generator) * 255
    imgs = torch.nn.functional.interpolate(coarse, scale_factor=8, mode='bilinear').byte()
    losses = []
    for _ in range(20):
        logs = model.train_step(dict(inputs=imgs, data_samples=None), optim_wrapper)
        losses.append(logs['loss'].item())
    return losses


def test_twenty_steps_give_the_stored_losses():
    stored = json.loads(LOSSES.read_text())
    assert len(stored) == 20
    assert stored[-1] < stored[0]
    assert twenty_losses() == pytest.approx(stored, rel=1e-4)


def test_training_validates_saves_and_resumes(trained):
    config, work_dir, output = trained
    assert 'iterations per epoch  4' in output
    scalars = [
        json.loads(line)
        for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    held = [row['recon/error'] for row in scalars if 'recon/error' in row]
    assert len(held) == 2
    assert held[1] < held[0]
    assert (work_dir / 'epoch_2.pth').is_file()
    pairs = ['pair_0_5', 'pair_1_4', 'pair_2_3']
    lines = [row for row in scalars if 'loss' in row]
    assert len(lines) == 8
    for row in lines:  # all four are means over the same iterations
        assert row['loss'] == pytest.approx(sum(row[pair] for pair in pairs) / 3, rel=1e-4)
        assert [name for name in row if name.startswith('pair_')] == pairs
        assert row['max_lr'] == max(row['lr'], row.get('base_lr', 0))
    last = [row for row in scalars if 'recon/error' in row][-1]
    assert [name for name in last if '/pair' in name] == [f'recon/{pair}' for pair in pairs]
    assert last['recon/error'] == pytest.approx(
        sum(last[f'recon/{pair}'] for pair in pairs) / 3, rel=1e-5
    )
    options = ('--cfg-options', 'train_cfg.max_epochs=3')
    where = ('--work-dir', work_dir)
    (more,) = run_forked('train.py', config, '--resume', *where, *options, cwd=work_dir)
    assert 'resuming from' in more
    assert (work_dir / 'epoch_3.pth').is_file()


def test_training_without_pairs_and_context(tmp_path, scenes):
    """From the command line: names in log and metrics, health, panels, the page."""
    options = ['model.head.pairing=none', 'model.neck.context=False', 'val_dataloader.batch_size=8']
    options += [f'{x}_dataloader.dataset.data_root={scenes}' for x in ('train', 'val', 'test')]
    options += ['train_dataloader.batch_size=8', 'default_hooks.logger.interval=1']
    where = ('--work-dir', tmp_path / 'run', '--cfg-options', *options)
    run_forked('train.py', CONFIG, *where, cwd=tmp_path)
    scalars = [
        json.loads(line)
        for line in next(tmp_path.glob('run/*/vis_data/scalars.json')).read_text().splitlines()
    ]
    lines, held = ([row for row in scalars if key in row] for key in ('loss', 'recon/error'))
    names = [f'pair_{g}' for g in range(6)]
    assert len(lines) == 8 and len(held) == 2 and held[1]['recon/error'] < held[0]['recon/error']
    for row in lines:  # means over the same iterations
        assert [name for name in row if name.startswith('pair_')] == names
        assert row['loss'] == pytest.approx(sum(row[name] for name in names) / 6, rel=1e-4)
    assert [name for name in held[1] if '/pair' in name] == [f'recon/{name}' for name in names]
    assert {'grad/neck', 'grad/decoder_0', 'update/decoder_5'} <= lines[-1].keys()
    assert list(tmp_path.glob('run/*/vis_data/vis_image/panel_*.png'))
    run_forked('report.py', tmp_path / 'run', '--out', tmp_path / 'page.html', cwd=tmp_path)
    assert 'Loss of each pair of segments' in (tmp_path / 'page.html').read_text()
    state = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)['state_dict']
    assert 'neck.decoders.5.pred.bias' in state
    assert not [name for name in state if 'cross_attn' in name or 'stem' in name]


def test_test_tool_repeats_the_last_validation(trained):
    config, work_dir, _ = trained
    arguments = (config, work_dir / 'epoch_2.pth', '--work-dir', work_dir / 'test')
    (output,) = run_forked('test.py', *arguments, cwd=work_dir)
    assert 'recon/error' in output
    tested = json.loads(next((work_dir / 'test').glob('*/2*.json')).read_text())
    scalars = [
        json.loads(line)
        for line in min(work_dir.glob('2*/vis_data/scalars.json')).read_text().splitlines()
    ]
    held = [row for row in scalars if 'recon/error' in row]
    for name in ('recon/error', 'recon/pair_0_5', 'recon/pair_2_3'):
        assert tested[name] == pytest.approx(held[1][name], rel=1e-5), name


def test_two_processes_walk_the_path_of_one(tmp_path, scenes, monkeypatch):
    """Same global batch, same masks: the same losses and weights within float noise."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    results = []
    for processes, batch in ((1, 8), (2, 4)):
        config = tmp_path / f'on{processes}.py'
        config.write_text(f"""
_base_ = ['{CONFIG}']
custom_imports = dict(imports=['mirl_mm', 'seeded'], allow_failed_imports=False)
model = dict(type='MIRLWithFixedMasks')
train_dataloader = dict(batch_size={batch}, dataset=dict(
    data_root='{scenes}', pipeline={{{{_base_.test_pipeline}}}}))
val_dataloader = None
val_evaluator = None
val_cfg = None
custom_hooks = [dict(type='RecordLosses', path='{tmp_path}/{processes}.json')]
""")
        where = ('--work-dir', tmp_path / f'run{processes}')
        run_forked('train.py', config, *where, cwd=tmp_path, processes=processes)
        results.append(json.loads((tmp_path / f'{processes}.json').read_text()))
    one, two = results
    assert len(one['losses']) == 8
    assert one['losses'][-1] < one['losses'][0]
    assert two['losses'] == pytest.approx(one['losses'], rel=1e-5)
    assert two['norms'] == pytest.approx(one['norms'], rel=1e-4, abs=1e-6)


@pytest.mark.long
def test_stock_feature_extractor_finds_our_names_in_a_fresh_process(trained, tmp_path, scenes):
    config, work_dir, _ = trained
    image = next((scenes / 'images/val').iterdir())
    script = f"""
from mmpretrain import FeatureExtractor
extractor = FeatureExtractor({str(config)!r}, pretrained={str(work_dir / 'epoch_2.pth')!r})
(features, ), = extractor({str(image)!r})
print('width', features.numel(), 'mean', float(features.abs().mean()) > 0)
"""
    output = run(sys.executable, '-c', script, cwd=tmp_path)
    assert 'width 48 mean True' in output
