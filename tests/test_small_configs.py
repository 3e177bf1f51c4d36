"""configs/small: as the study, sizes that fit each other, trained from a folder; and their page."""

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope

from benchmarks.small import write_data
from benchmarks.study.grid import RATE, RUNS, WARM_UP
from benchmarks.study.stages import Place, options_of
from mirl_mm.engine.launch import build_runner, load_config, training_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/small-data.md').read_text()
COMMANDS = [
    shlex.split(command.replace('\\\n', ' '))
    for command in re.findall(r'^    (mirl (?:.*\\\n)*.*)$', PAGE, re.MULTILINE)
]
IMAGES = 350_000  # seen by the study's runs of 10 epochs
DENSE = [
    pytest.param(f'{task}_24-blocks_128px', marks=pytest.mark.dense)
    for task in ('mask-rcnn', 'upernet')
]


def config(name: str, **options) -> Config:
    cfg = load_config(f'small/{name}', options)
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('depth', [12, 24])
def test_the_study_measured_these_settings(depth):
    """All but the data, and a length in iterations in the place of epochs."""
    run = RUNS[f'tiny-mirl-{depth}-10e-s0']
    study = load_config(
        str(ROOT / 'benchmarks/study/mirl_tiny.py'), options_of(run, Place(Path(), Path()))
    )
    ours = config(f'mirl_{depth}-blocks_64px')
    assert ours.model == study.model and ours.optim_wrapper == study.optim_wrapper
    assert ours.optim_wrapper.optimizer.lr == RATE
    loaders = ours.train_dataloader, study.train_dataloader
    for key in ('type', 'pipeline'):
        assert loaders[0].dataset[key] == loaders[1].dataset[key]
    assert loaders[0].batch_size == loaders[1].batch_size
    assert 0 <= ours.train_cfg.max_iters * loaders[0].batch_size - IMAGES < loaders[0].batch_size


@pytest.mark.parametrize('size', ['64px', '128px'])
def test_warm_up_and_length(size):
    rise, fall = config(f'mirl_24-blocks_{size}').param_scheduler
    assert (rise.end, fall.end) == (round(fall.end * WARM_UP), 5469)


def test_the_wide_one_is_the_depth_stage_of_the_gpu():
    from benchmarks.gpu.depth import EPOCHS, setting_of, sizes
    from benchmarks.gpu.study import model_of, rate_of

    cfg, size = config('mirl_24-blocks-192_64px'), sizes(rehearse=False)
    batch = cfg.train_dataloader.batch_size
    assert batch == size['batch'] and cfg.optim_wrapper.optimizer.lr == rate_of(batch)
    assert cfg.train_cfg.max_iters == round(EPOCHS * 35_000 / batch)
    rise, fall = cfg.param_scheduler
    assert (rise.end, fall.end) == (round(fall.end * WARM_UP), cfg.train_cfg.max_iters)

    class Here:
        device = 'meta'

    theirs = model_of('mirl', 24, setting_of(size, EPOCHS, Here))
    shapes = [
        {name: p.shape for name, p in each.named_parameters()} for each in (build(cfg), theirs)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('name', DENSE)
def test_maps_have_the_strides_that_heads_are_told(name):
    """Of 128 px, in the encoder's patches of 8."""
    cfg = config(name)
    model = build(cfg).eval()
    with torch.device('meta'):
        maps = model.extract_feat(torch.zeros(2, 3, 128, 128))
        strides = [128 // each.shape[-1] for each in maps]
        if name.startswith('upernet'):
            assert strides == [4, 8, 16]
            assert model.decode_head(maps).shape == (2, 2, 32, 32)
            assert model.auxiliary_head(maps).shape[1] == 2
            return
        assert strides == [4, 8, 16, 32]
        assert [pair[0] for pair in model.rpn_head.prior_generator.strides] == strides
        sides = [each[:, 2].max().item() * 2 for each in anchors_of(cfg)]
        assert sides == [16, 32, 64, 128] and max(sides) == 128
        heads = model.roi_head
        for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
            assert extractor.featmap_strides == strides[:3]
        assert heads.bbox_head(torch.zeros(4, 48, 7, 7))[0].shape == (4, 2)
        assert heads.mask_head(torch.zeros(4, 48, 14, 14)).shape == (4, 1, 28, 28)


def anchors_of(cfg: Config) -> list[torch.Tensor]:
    """The square one of every level, around its centre."""
    from mmdet.registry import TASK_UTILS

    generator = TASK_UTILS.build(cfg.model.rpn_head.anchor_generator)
    square = [each[:, 2] == each[:, 3] for each in generator.base_anchors]
    return [each[rows] for each, rows in zip(generator.base_anchors, square, strict=True)]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    write_data(folder)
    return folder


def train(name: str, data: Path, work_dir: Path, encoder: Path | None = None) -> dict:
    """Two iterations and a validation; what was logged last."""
    options = {
        'experiment_name': f'{work_dir.name}-{name}',
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
    }
    if encoder:
        options['model.backbone.init_cfg.checkpoint'] = str(encoder)
    place = data / ('classes' if name.startswith('finetune') else 'scenes')
    runner = build_runner(
        *training_config(f'small/{name}', str(work_dir), data=str(place), cfg_options=options)
    )
    runner.train()
    assert (work_dir / 'iter_2.pth').is_file()
    scalars = runner.message_hub.log_scalars
    assert torch.isfinite(torch.tensor(scalars['train/loss'].current()))
    return {key: value.current() for key, value in scalars.items()}


@pytest.fixture(scope='module')
def encoder(data, tmp_path_factory) -> Path:
    """What two iterations leave."""
    work_dir = tmp_path_factory.mktemp('pretrained')
    found = train('mirl_24-blocks_64px', data, work_dir)
    assert found['val/recon/error'] > 0.5
    return work_dir / 'encoder.pth'


@pytest.mark.parametrize(
    ('name', 'metric'),
    [
        ('finetune_24-blocks_64px', 'val/accuracy/top1'),
        pytest.param('mask-rcnn_24-blocks_128px', 'val/coco/bbox_mAP', marks=pytest.mark.dense),
        pytest.param('upernet_24-blocks_128px', 'val/mIoU', marks=pytest.mark.dense),
    ],
)
def test_a_transfer_starts_from_the_encoder_that_pre_training_leaves(
    name, metric, data, encoder, tmp_path
):
    assert metric in train(name, data, tmp_path, encoder)
    assert config(name).model.backbone.init_cfg.checkpoint == (
        'work_dirs/mirl_24-blocks_64px/encoder.pth'
    )


def test_commands_of_the_page_name_what_there_is():
    assert len(COMMANDS) == 7
    for _, command, name, *rest in COMMANDS:
        assert command in ('train', 'reconstruct', 'knn') and config(name.removeprefix('small/'))
        if found := re.search(r'iter_(\d+)\.pth', ' '.join(rest)):
            assert int(found[1]) == config('mirl_24-blocks_64px').train_cfg.max_iters
    assert set(re.findall(r'small/[\w-]+', PAGE)) == {
        f'small/{path.stem}' for path in (ROOT / 'configs/small').glob('*.py')
    }


def test_the_longer_run_has_the_schedule_that_fits():
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    (longer,) = [each for each in COMMANDS if '--cfg-options' in each]
    options = parser.parse_args(longer[longer.index('--cfg-options') :]).cfg_options
    once, cfg = config('mirl_24-blocks_64px'), load_config('small/mirl_24-blocks_64px', options)
    assert cfg.train_cfg.max_iters == 4 * once.train_cfg.max_iters
    rise, fall = cfg.param_scheduler
    assert rise.end == fall.begin == 4 * once.param_scheduler[0].end
    assert fall.end == cfg.train_cfg.max_iters and fall.T_max == fall.end - fall.begin


def test_an_encoder_of_12_blocks_for_the_transfers():
    text = next(line for line in PAGE.split('\n\n') if line.startswith('Other encoders'))
    options = re.findall(r'(model\.backbone\.[\w.]+)=(\S+?)"?[`\s]', text.replace('="', '='))
    given = {key: DictAction._parse_iterable(value) for key, value in options}
    assert given.keys() == {
        f'model.backbone.{key}' for key in ('init_cfg.checkpoint', 'arch.num_layers', 'out_indices')
    }
    taps = given.pop('model.backbone.out_indices')
    given.pop('model.backbone.init_cfg.checkpoint')
    assert build(config('finetune_24-blocks_64px', **given)).backbone.num_layers == 12
    assert list(taps) == [3, 7, 11]
