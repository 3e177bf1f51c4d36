"""Every file in configs/: it loads, means something, adds up, and says the truth about itself."""

import ast
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, init_default_scope

from mirl_mm.engine.launch import check_keys, load_config
from mirl_mm.engine.machine import set_precision
from mirl_mm.models.archs import ARCHS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / 'configs').glob('*/*.py') if p.parent.name != '_base_')
PUBLISHED = re.compile(r'# Published: ([\d.]+) %')
TO_BEAT = re.compile(r'To beat:\s+([\d.]+)\s+(box AP|mIoU)')
DENSE = ('mmdet', 'mmseg')


def header(path: Path) -> str:
    return path.read_text().split('_base_ =')[0]


def prose(path: Path) -> str:
    """The header as running text."""
    return re.sub(r'\n# +', ' ', header(path))


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
    mirl = [f'{arch}_300e' for arch in ARCHS if arch not in ('test', 'l24', 'h32')]
    mirl += ['s54_800e', 'b48_800e', 'b12_800e', 'test_2e']
    mirl += ['b48_100e_continued', 'test_2e_continued', 'test_2e_5-channels']
    mirl += [f'{n}_encoder' for n in ('b12_100e', 'l24_100e', 'test_2e')]
    mae = ['s54_300e', 'b48_300e', 'b12_300e', 'test_2e']
    finetune = [f'{n}_in1k' for n in ('b12_100e', 's54_100e', 'b24_100e', 'b48_60e')]
    linear = [f'{n}_in1k' for n in ('b12_90e', 's54_90e', 'b48_90e')]
    coco = [f'{n}_coco' for n in ('b12_1x', 'b48_cascade-lsj-100e')]
    coco += [f'{arch}_lsj-100e_coco' for arch in ('b12', 'b24', 's54', 'b48')]
    ade20k = [f'{arch}_160k_ade20k-512' for arch in ('b12', 'b24', 's54', 'b48')]
    coco += [f'{which}-lsj-100e_coco' for which in ('l24_mae', 'b12_dinov2', 'l24_dinov2')]
    ade20k += ['l24_mae-160k_ade20k-512']
    ade20k += [f'{arch}_dinov2-160k_ade20k-518' for arch in ('b12', 'l24')]
    tests = ['test_20it_scenes', 'test_dinov2-20it_scenes']
    upernet = [*ade20k, *tests, 'test_20it_5-channels']
    tasks = {'mask-rcnn': [*coco, *tests], 'upernet': upernet}
    tasks |= dict(
        mirl=mirl,
        mae=mae,
        finetune=[*finetune, 'test_2e_classes'],
        linear=[*linear, 'test_4e_classes'],
    )
    small = [f'mirl_{n}' for n in ('12-blocks_64px', '24-blocks_64px', '24-blocks_128px')]
    small += ['mirl_24-blocks-192_64px', 'finetune_24-blocks_64px']
    small += [f'{task}_24-blocks_128px' for task in ('mask-rcnn', 'upernet')]
    needed = {f'{task}/vit-{n}.py' for task, names in tasks.items() for n in names}
    needed |= {f'small/{n}.py' for n in small}
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


def levels(path: Path) -> int:
    """How many levels of bases lie below a config."""
    found = re.search(r'^_base_ = (\[.*?\]|\S+)$', path.read_text(), re.MULTILINE | re.DOTALL)
    bases = ast.literal_eval(found.group(1)) if found else []
    bases = [bases] if isinstance(bases, str) else bases
    return max((1 + levels(path.parent / base) for base in bases), default=0)


def test_bases_are_at_most_two_levels(path):
    assert levels(path) in (1, 2)


@pytest.mark.parametrize('folder', ['tiny_imagenet', 'dense_transfer', 'study'])
def test_benchmarks_inherit_as_well(folder):
    """A variant of another benchmark's config may add a level."""
    found = [levels(p) for p in (ROOT / 'benchmarks' / folder).glob('*.py')]
    assert max(found) == (3 if folder == 'study' else 2)


def test_model_pipelines_metrics_and_hooks_build(cfg):
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 10_000
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader := cfg.get(name):
            dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
            assert len(dataset.pipeline.transforms) == len(loader.dataset.pipeline)
    for name in ('val_evaluator', 'test_evaluator'):
        if metric := cfg.get(name):
            file = dict(ann_file=None) if 'ann_file' in metric else {}  # which is read at once
            METRICS.build({**metric, **file})
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)


def test_the_model_fits_the_data(cfg):
    """Neck and decoder widths follow the encoder; one forward on meta tensors."""
    if cfg.default_scope in DENSE:
        return  # tests/test_dense_configs.py
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
    assert all(s.by_epoch == (unit == 'epochs') for s in schedulers)
    main = schedulers[-1]
    if main.type == 'MultiStepLR':  # counts its milestones from its begin
        assert main.begin == 0 and main.milestones == sorted(main.milestones)
        assert schedulers[0].end < main.milestones[0] and main.milestones[-1] < main.end
        return
    whole = [s for s in schedulers if s.type != 'PartLinearLR']
    for earlier, later in itertools.pairwise(whole):
        assert earlier.end == later.begin
    assert main.get('T_max') == (None if main.type == 'PolyLR' else main.end - main.begin)


RATES = dict(mirl=1.5e-4, mae=1.5e-4, finetune=7.5e-4, linear=0.1)  # for a batch of 256


def test_the_learning_rate_fits_the_batch(path, cfg):
    assert cfg.default_hooks.summary == dict(type='RunSummaryHook')
    batch, base = effective_batch(path, cfg), cfg.auto_scale_lr
    assert base == dict(base_batch_size=batch, enable=False, base_lr=base.base_lr)
    folder = path.parent.name
    small = folder in ('mirl', 'mae') and path.stem.startswith('vit-test')
    rate = 1.5e-3 if small else RATES.get(folder)
    assert rate is None or base.base_lr == pytest.approx(rate * batch / 256)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(base.base_lr)


def test_the_effective_batch_is_the_stated_one(path, cfg):
    line = re.search(r'# Effective batch: (.*)', header(path)).group(1)
    factors, _, product = re.split(r'[(.,]| on ', line)[0].partition('=')
    stated = math.prod(int(number) for number in re.findall(r'\d+', factors))
    assert stated == int(product or stated) == effective_batch(path, cfg)


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
    if bar := TO_BEAT.search(prose(path)):
        assert published.startswith('{} {}'.format(*bar.groups()))
        return
    found = PUBLISHED.search(header(path))
    assert published.split(' %')[0] == (found.group(1) if found else published)
    assert bool(found) == ('%' in published)


def test_every_row_of_the_table_has_a_file():
    table = (ROOT / 'configs/README.md').read_text()
    listed = re.findall(r'^\| \[(\S+)\]\(\1\) ', table, re.MULTILINE)
    assert sorted(listed) == sorted(str(p.relative_to(ROOT / 'configs')) for p in CONFIGS)


def test_mae_and_mirl_share_encoder_data_and_schedule():
    both = [path.name for path in CONFIGS if path.parent.name == 'mae']
    assert {name.split('_')[0] for name in both} >= {'vit-s54', 'vit-b48', 'vit-b12', 'vit-test'}
    for name in both:
        mirl, mae = (load_config(str(ROOT / f'configs/{m}/{name}')) for m in ('mirl', 'mae'))
        for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
            assert mirl[key] == mae[key], (name, key)
        init_default_scope('mmpretrain')
        with torch.device('meta'):
            encoders = [MODELS.build(c.model).backbone for c in (mirl, mae)]
        shapes = [{n: p.shape for n, p in e.named_parameters()} for e in encoders]
        assert shapes[0] == shapes[1], name


# arch: epochs, warm-up, layer decay, drop path; b24 is our choice, b12 comes from a deleted script
FINETUNE = dict(
    b12=(100, 20, 0.6, 0.1),
    s54=(100, 20, 0.88, 0.1),
    b24=(100, 20, 0.77, 0.1),
    b48=(60, 30, 0.88, 0.0),
)


def finetune_config(arch: str) -> Config:
    cfg = load_config(str(ROOT / f'configs/finetune/vit-{arch}_{FINETUNE[arch][0]}e_in1k.py'))
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('arch', FINETUNE)
def test_fine_tuning_follows_the_published_recipe(arch):
    epochs, warm_up, decay, drop_path = FINETUNE[arch]
    cfg = finetune_config(arch)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=6e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    )
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == decay
    rise, fall = cfg.param_scheduler
    assert (rise.end, fall.end, fall.eta_min_ratio) == (warm_up, epochs, pytest.approx(1 / 6000))
    assert 'eta_min' not in fall
    assert cfg.model.backbone.arch == arch and cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]
    rand, erase = cfg.train_dataloader.dataset.pipeline[3:5]
    assert (rand.policies, rand.magnitude_level, rand.magnitude_std) == ('timm_increasing', 9, 0.5)
    assert (erase.erase_prob, erase.mode, erase.max_area_ratio) == (0.25, 'rand', 1 / 3)


@pytest.mark.parametrize('arch', FINETUNE)
def test_fine_tuning_groups(arch):
    """Rates by layer; no decay on positions, cls token and 1-D parameters; all are trained."""
    cfg = finetune_config(arch)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    set_precision(cfg, amp=False, accelerator=False, bfloat16=False)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    depth, decay = model.backbone.num_layers, FINETUNE[arch][2]
    scale = decay**depth
    for name, expected in {
        'backbone.pos_embed': (6e-3 * scale * decay, 0),
        'backbone.cls_token': (6e-3 * scale * decay, 0),
        'backbone.patch_embed.projection.weight': (6e-3 * scale * decay, 0.05),
        'backbone.layers.0.attn.qkv.weight': (6e-3 * scale, 0.05),
        f'backbone.layers.{depth - 1}.ln1.weight': (6e-3 * decay, 0),
        'backbone.ln2.weight': (6e-3, 0),
        'head.fc.weight': (6e-3, 0.05),
        'head.fc.bias': (6e-3, 0),
    }.items():
        assert found[id(model.get_parameter(name))] == pytest.approx(expected), name
    assert len(found) == len(list(model.parameters()))


def test_the_average_moves_once_per_update(path, cfg):
    averages = [hook for hook in cfg.get('custom_hooks', []) if hook.type == 'EMAHook']
    if path.parent.name == 'finetune':
        k = cfg.optim_wrapper.accumulative_counts
        wanted = dict(ema_type='ForeachEMA', momentum=2e-4, interval=k, gamma=9 * k)
        assert averages == [dict(type='EMAHook', **wanted)]
        assert [hook.type for hook in cfg.custom_hooks].count('RawWeightsHook') == 1
    else:
        assert averages == []


def test_classifiers_agree_with_themselves(path, cfg):
    """Number of classes, place of the checkpoint, what is frozen."""
    if path.parent.name not in ('finetune', 'linear'):
        return
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes
    init = cfg.model.backbone.init_cfg
    assert (init.type, init.prefix) == ('Pretrained', 'backbone.')
    assert re.fullmatch(
        rf'work_dirs/vit-{cfg.model.backbone.arch}_\d+e/encoder.pth', init.checkpoint
    )
    assert (ROOT / f'configs/mirl/{Path(init.checkpoint).parent.name}.py').is_file()
    if path.name.split('_')[0] != 'vit-test':
        assert init.checkpoint in header(path)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if path.parent.name == 'linear':
        assert trained == {'head.layers.head.weight', 'head.layers.head.bias'}
        assert model.neck.bn.num_features == model.backbone.embed_dims
    else:
        assert len(trained) == len(list(model.parameters()))
        assert 'backbone.pos_embed' in trained and 'backbone.ln2.weight' in trained
        assert not model.backbone.final_norm


def test_a_fine_tuning_head_starts_at_almost_zero():
    cfg = load_config(str(ROOT / 'configs/finetune/vit-test_2e_classes.py'))
    init_default_scope('mmpretrain')
    head = MODELS.build(dict(cfg.model.head, num_classes=1000))
    head.init_weights()
    assert head.fc.weight.std().item() == pytest.approx(2e-5, rel=0.05)
    assert head.fc.bias.abs().max() == 0


BENCHMARKS = ROOT / 'benchmarks/tiny_imagenet'


def test_the_benchmark_compares_like_with_like():
    configs = {path.stem: load_config(str(path)) for path in BENCHMARKS.glob('*-blocks.py')}
    assert sorted(configs) == [f'{n}_24-blocks' for n in ('finetune', 'linear', 'mae', 'mirl')]
    mirl, mae = configs['mirl_24-blocks'], configs['mae_24-blocks']
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness'):
        assert mirl[key] == mae[key], key
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        models = [MODELS.build(cfg.model).backbone.state_dict() for cfg in configs.values()]
    names = set.intersection(*(set(state) for state in models))
    assert len(names) == 4 + 12 * 24  # patch projection, positions, cls; no final norm in all
    assert all(len({state[name].shape for state in models}) == 1 for name in names)
