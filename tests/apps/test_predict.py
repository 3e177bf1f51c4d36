"""tools/predict.py: a classifier's drawings, and input that cannot be used.

Detectors and segmentors are drawn in tests/training/test_dense.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mirl_mm.apps.predict import predict_pictures
from mirl_mm.engine.launch import load_config

ROOT = Path(__file__).parents[2]
CLASSIFIER = str(ROOT / 'configs/finetune/vit-test_2e_classes.py')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    """A classifier that always says `green`."""
    cfg = load_config(CLASSIFIER)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data = torch.tensor([0.0, 3.0, 0.0, 0.0])
    meta = dict(dataset_meta=dict(classes=['blue', 'green', 'grey', 'red']))
    path = tmp_path_factory.mktemp('classifier') / 'epoch_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i, size in enumerate([(90, 70), (64, 128)]):
        Image.new('RGB', size, 'grey').save(folder / f'{i}.png')
    return folder


def test_a_classifier_writes_its_label(checkpoint, pictures, tmp_path):
    out = tmp_path / 'out'
    lines = list(predict_pictures(CLASSIFIER, checkpoint, str(pictures), str(out)))
    share = round(100 * np.exp(3) / (np.exp(3) + 3))
    assert lines == [f'{pictures}/{i}.png: green {share} % -> {out}/{i}.png' for i in (0, 1)]
    drawing = np.asarray(Image.open(out / '0.png').convert('RGB')).astype(int)
    assert (np.abs(drawing - 128).max(axis=2) > 40).mean() > 0.002  # letters
    for name in ('single.png', 'single.svg'):
        single = tmp_path / name
        (line,) = predict_pictures(CLASSIFIER, checkpoint, str(pictures / '0.png'), str(single))
        assert line.endswith(f'-> {single}') and single.is_file()


@pytest.mark.parametrize(
    ('changes', 'kind', 'message'),
    [
        (dict(score=1.5), ValueError, r'score must be from 0 to 1, got 1\.5'),
        (dict(checkpoint='epoch_3.pth'), FileNotFoundError, r'no such checkpoint file: epoch_3'),
        (dict(pictures='nowhere'), FileNotFoundError, r'no image or folder at nowhere'),
        (
            dict(out='page.png'),
            ValueError,
            r'page\.png is one page and takes at most 1 of the 2 ',
        ),
        (
            dict(config=str(ROOT / 'configs/mirl/vit-test_2e.py')),
            ValueError,
            r'vit-test_2e\.py is no detector, segmentor or classifier; its model is MIRL',
        ),
    ],
)
def test_input_that_cannot_be_used(checkpoint, pictures, changes, kind, message):
    given = dict(config=CLASSIFIER, checkpoint=checkpoint, pictures=str(pictures)) | changes
    with pytest.raises(kind, match=message):
        list(predict_pictures(**given))


def test_a_checkpoint_without_a_head(checkpoint, pictures, tmp_path):
    state = torch.load(checkpoint)
    del state['state_dict']['head.fc.bias']
    torch.save(state, tmp_path / 'part.pth')
    with pytest.raises(
        ValueError, match=r"part\.pth does not fit this \w+: it lacks 'head\.fc\.bias', which"
    ):
        list(predict_pictures(CLASSIFIER, str(tmp_path / 'part.pth'), str(pictures), str(tmp_path)))
