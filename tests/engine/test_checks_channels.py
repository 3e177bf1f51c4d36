"""Channels of loaders, normalisation and encoder that differ: one line, at the start."""

from pathlib import Path

import pytest

from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
FIVE = str(CONFIGS / 'mirl/vit-test_2e_5-channels.py')
RGB = str(CONFIGS / 'mirl/vit-test_2e.py')


@pytest.mark.parametrize(
    ('config', 'options', 'said'),
    [
        (
            FIVE,
            {'train_dataloader.dataset.pipeline.0.channels': 4},
            'train_dataloader reads 4 channels, but model.backbone.in_channels=5: set channels=5 '
            'where its pipeline reads, or in_channels=4',
        ),
        (FIVE, {'val_dataloader.dataset.pipeline.0.channels': 0}, 'val_dataloader reads 0 chann'),
        (
            FIVE,
            {'test_dataloader.dataset.pipeline.0.channels': None},
            'test_dataloader reads 3 channels, but model.backbone.in_channels=5',
        ),
        (RGB, {'model.backbone.in_channels': 1}, 'train_dataloader reads 3 channels, but'),
        (
            FIVE,
            {'model.data_preprocessor.mean': [1, 2, 3, 4]},
            'model.data_preprocessor.mean has 4 values, but model.backbone.in_channels=5: accepted '
            'are as many, or 1',
        ),
        (FIVE, {'model.data_preprocessor.std': [1, 2, 3]}, 'preprocessor.std has 3 values, but'),
        (
            FIVE,
            {'model.data_preprocessor.to_rgb': True},
            'train_dataloader reads channels=5 in the order of the file: set to_rgb and bgr_to_rgb',
        ),
    ],
)
def test_parts_that_differ(config, options, said):
    with pytest.raises(UserError, match=said) as error:
        load_config(config, options)
    assert '\n' not in str(error.value)


def test_normalisation_beside_the_model_and_data_in_wrappers(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "data_preprocessor = dict(mean=[1.0, 2.0], std=[1.0, 2.0])\nmodel = dict(type='MIRL')"
    )
    with pytest.raises(UserError, match=r'data_preprocessor\.mean has 2 values, but .*channels=3'):
        load_config(str(config))
    step = "dict(type='LoadImageFromFile', channels=5)"
    inner = f"dict(type='ConcatDataset', datasets=[dict(type='A', pipeline=[{step}])])"
    config.write_text(
        f"train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset={inner}))"
    )
    with pytest.raises(UserError, match=r'train_dataloader reads 5 channels, but .*channels=3'):
        load_config(str(config))


def test_parts_that_agree():
    cfg = load_config(FIVE)
    assert cfg.model.backbone.in_channels == len(cfg.model.data_preprocessor.mean) == 5
    load_config(FIVE, {f'model.data_preprocessor.{key}': [1.0] for key in ('mean', 'std')})
    grey = {'model.backbone.in_channels': 1}
    grey |= {f'model.data_preprocessor.{key}': [1.0] for key in ('mean', 'std')}
    for loader in ('train', 'val', 'test'):
        grey[f'{loader}_dataloader.dataset.pipeline.0.color_type'] = 'grayscale'
    assert load_config(RGB, grey).model.backbone.in_channels == 1
