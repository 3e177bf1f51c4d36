"""tools/predict.py: pictures of any kind, a classifier's drawings, and input that cannot be used.

What trained detectors and segmentors find is drawn in tests/training/test_dense.py.
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
TASKS = (
    'finetune/vit-test_2e_classes',
    'mask-rcnn/vit-test_20it_scenes',
    'upernet/vit-test_20it_scenes',
)
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


@pytest.fixture(scope='module', params=TASKS, ids=['classifier', 'detector', 'segmentor'])
def untrained(request, tmp_path_factory) -> tuple[str, str]:
    """A config, a checkpoint of a model that finds nothing."""
    config = str(ROOT / f'configs/{request.param}.py')
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    if cfg.default_scope == 'mmseg':  # background, which is black
        torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
        model.decode_head.conv_seg.bias.data = torch.eye(7)[0]
    names = cfg.get('metainfo', dict(classes=['blue', 'green', 'grey', 'red']))
    path = str(tmp_path_factory.mktemp('untrained') / 'model.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(names))), path)
    return config, path


def picture(kind: str, path: Path) -> np.ndarray:
    """Writes one, half of it blue; what is to be seen on it, RGB [H, W, 3]."""
    seen = np.zeros((60, 96, 3), np.uint8)
    seen[:, :48] = (0, 0, 250)
    image, settings = Image.fromarray(seen), dict()
    if kind == 'turned':
        exif = Image.Exif()
        exif[0x0112] = 6
        image, settings = image.transpose(Image.Transpose.ROTATE_90), dict(exif=exif)
    elif kind == '16 bit':
        seen[:] = seen.max(axis=2, keepdims=True)
        image = Image.fromarray(seen[..., 0].astype(np.uint16) << 8)
    elif kind != 'RGB':
        image = image.quantize() if kind == 'P' else image.convert(kind)
    image.save(path, **settings)
    return seen


@pytest.mark.parametrize(
    ('kind', 'name'),
    [('RGB', 'a.png'), ('turned', 'a.png'), ('16 bit', 'a.png'), ('P', 'a.gif'), ('CMYK', 'a.tif')],
)
def test_what_is_drawn_is_the_picture_as_it_is_read(untrained, kind, name, tmp_path, capfd):
    config, checkpoint = untrained
    seen = picture(kind, tmp_path / name)
    pages = predict_pictures(config, checkpoint, str(tmp_path / name), str(tmp_path), score=1.0)
    capfd.readouterr()
    (line,) = pages
    assert 'Inference' not in ''.join(capfd.readouterr())  # a library's progress bar
    assert line.startswith(f'{tmp_path / name}: ') and 'skipped' not in line
    drawing = np.asarray(Image.open(line.rpartition(' -> ')[2]).convert('RGB'))
    assert drawing.shape == seen.shape
    if 'upernet' in config:
        seen = seen / 2  # under black
    right = np.abs(drawing - seen.astype(int)).max(axis=2) <= 12
    assert right.mean() > (0.99 if 'mask-rcnn' in config else 0.7)  # beside the letters
