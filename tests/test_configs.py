"""Every file in configs/: it loads, means something, adds up, and says the truth about itself."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, init_default_scope

from mirl_mm.engine.config_keys import check_keys
from mirl_mm.engine.launch import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / 'configs').glob('*/*.py') if p.parent.name != '_base_')
PUBLISHED = re.compile(r'# Published: ([\d.]+) %')


def header(path: Path) -> str:
    return path.read_text().split('_base_ =')[0]


def processes(path: Path) -> int:
    """As many as the command in the file's header starts."""
    found = re.search(r'# Command: tools/dist_train\.sh \S+ (\d+)', header(path))
    return int(found.group(1)) if found else 1


def effective_batch(path: Path, cfg: Config) -> int:
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    return cfg.train_dataloader.batch_size * processes(path) * accumulated


def length(cfg: Config) -> tuple[int, str]:
    if 'max_epochs' in cfg.train_cfg:
        return cfg.train_cfg.max_epochs, 'epochs'
    return cfg.train_cfg.max_iters, 'iterations'


def test_the_list_is_not_empty():
    names = {str(path.relative_to(ROOT / 'configs')) for path in CONFIGS}
    mirl = [
        's54_300e',
        's54_800e',
        'b48_300e',
        'b48_800e',
        'b24_300e',
        'b12_300e',
        'b12_800e',
        's12_300e',
        'test_2e',
    ]
    mae = ['s54_300e', 'b48_300e', 'b12_300e', 'test_2e']
    needed = {f'mirl/vit-{n}.py' for n in mirl} | {f'mae/vit-{n}.py' for n in mae}
    assert needed <= names, needed - names


@pytest.fixture(params=CONFIGS, ids=lambda path: f'{path.parent.name}/{path.stem}')
def path(request) -> Path:
    return request.param


@pytest.fixture
def cfg(path) -> Config:
    config = load_config(str(path))
    init_default_scope(config.default_scope)
    return config


def test_keys_and_reload(path, cfg, tmp_path):
    check_keys(cfg)
    assert cfg.custom_imports == dict(imports=['mirl_mm'], allow_failed_imports=False)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


def test_a_misspelt_key_fails(path, tmp_path):
    wrong = tmp_path / 'wrong.py'
    wrong.write_text(f"_base_ = ['{path}']\noptim_wraper = dict()\n")
    with pytest.raises(ValueError, match=r"unknown config key 'optim_wraper'.*optim_wrapper"):
        load_config(str(wrong))


def test_bases_are_at_most_two_levels(path):
    bases = re.findall(r"'(\.\./_base_/\S+?\.py)'", path.read_text())
    assert bases
    for base in bases:
        assert '_base_ =' not in (path.parent / base).read_text(), base


def test_model_pipelines_metrics_and_hooks_build(cfg):
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 10_000
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader := cfg.get(name):
            dataset = loader.dataset
            assert dataset.type in DATASETS
            assert len(Compose(dataset.pipeline).transforms) == len(dataset.pipeline)
    for name in ('val_evaluator', 'test_evaluator'):
        if cfg.get(name):
            METRICS.build(cfg[name])
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)


def test_the_model_fits_the_data(cfg):
    """Neck and decoder widths follow the encoder; one forward on meta tensors."""
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        crop = next(t for t in cfg.train_dataloader.dataset.pipeline if 'Crop' in t.type)
        imgs = torch.zeros(2, 3, crop.scale, crop.scale)
    height, width = model.backbone.img_size
    assert (height, width) == tuple(imgs.shape[-2:])


def test_the_schedule_ends_with_the_run(cfg):
    last, unit = length(cfg)
    schedulers = cfg.param_scheduler
    assert max(s.end for s in schedulers) == last
    assert sorted((s.begin, s.end) for s in schedulers)[0][0] == 0
    for earlier, later in itertools.pairwise(schedulers):
        assert earlier.end == later.begin
    cosine = schedulers[-1]
    assert cosine.T_max == cosine.end - cosine.begin
    assert all(s.by_epoch == (unit == 'epochs') for s in schedulers)


def test_the_learning_rate_fits_the_batch(path, cfg):
    summary = next(h for h in cfg.custom_hooks if h.type == 'RunSummaryHook')
    batch = effective_batch(path, cfg)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(summary.base_lr * batch / 256)
    assert cfg.auto_scale_lr == dict(base_batch_size=batch, enable=False)


def test_the_table_in_the_readme_is_true(path, cfg):
    table = (ROOT / 'configs/README.md').read_text()
    name = str(path.relative_to(ROOT / 'configs'))
    row = next((r for r in table.splitlines() if r.startswith(f'| [{name}]({name}) ')), None)
    assert row, f'configs/README.md has no row for {name}'
    _, _, arch, run, batch, lr, published, _ = (cell.strip() for cell in row.split('|'))
    assert run == '{} {}'.format(*length(cfg))
    assert int(batch) == effective_batch(path, cfg)
    assert float(lr) == pytest.approx(cfg.optim_wrapper.optimizer.lr)
    backbone = cfg.model.backbone.arch
    if isinstance(backbone, str):
        assert arch == backbone
    found = PUBLISHED.search(header(path))
    assert published.split(' %')[0] == (found.group(1) if found else published)
    assert bool(found) == ('%' in published)


def test_every_row_of_the_table_has_a_file():
    table = (ROOT / 'configs/README.md').read_text()
    listed = re.findall(r'^\| \[(\S+)\]\(\1\) ', table, re.MULTILINE)
    assert sorted(listed) == sorted(str(p.relative_to(ROOT / 'configs')) for p in CONFIGS)


def test_mae_and_mirl_share_encoder_data_and_schedule():
    for arch in ('s54', 'b48', 'b12', 'test'):
        epochs = '2e' if arch == 'test' else '300e'
        mirl, mae = (
            load_config(str(ROOT / f'configs/{m}/vit-{arch}_{epochs}.py')) for m in ('mirl', 'mae')
        )
        for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
            assert mirl[key] == mae[key], (arch, key)
        init_default_scope('mmpretrain')
        with torch.device('meta'):
            encoders = [MODELS.build(c.model).backbone for c in (mirl, mae)]
        shapes = [{n: p.shape for n, p in e.named_parameters()} for e in encoders]
        assert shapes[0] == shapes[1], arch
