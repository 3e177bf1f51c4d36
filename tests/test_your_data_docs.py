"""What docs/your-data.md quotes is what the code says."""

import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

from mirl_mm.datasets import listing
from mirl_mm.datasets.class_folders import check_labelled
from mirl_mm.datasets.decode import LoadAnyImage
from mirl_mm.datasets.listing import EXTENSIONS, read_list
from mirl_mm.engine.checks import check_channels
from mirl_mm.errors import UserError

PAGE = (Path(__file__).parents[1] / 'docs' / 'your-data.md').read_text()


def quoted(start: str) -> str:
    """The one message on the page that starts so."""
    (found,) = [text for text in re.findall(r'`([^`\n]+)`', PAGE) if text.startswith(start)]
    return found


def test_the_endings_are_those_that_are_taken():
    row = next(line for line in PAGE.splitlines() if line.startswith('| endings'))
    assert tuple(re.search(r'taken: `([^`]+)`', row)[1].split()) == EXTENSIONS


def test_pixels_without_a_range(tmp_path):
    path = tmp_path / 'float.tif'
    Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    with pytest.raises(UserError) as error:
        LoadAnyImage().transform(dict(img_path=str(path)))
    assert str(error.value) == quoted('cannot read the image PATH: pixels').replace(
        'PATH', str(path)
    )


def test_files_of_other_channels(tmp_path):
    hole = np.ones((8, 9, 5), np.float32)
    hole[2, 3, 1:3] = np.nan
    for start, array in (
        ('cannot read the image PATH: it is of shape', np.zeros((128, 128, 4))),
        ('cannot read the image PATH: 2 of its', hole),
    ):
        np.save(path := tmp_path / 'own.npy', array)
        with pytest.raises(UserError) as error:
            LoadAnyImage(channels=5)(dict(img_path=str(path)))
        assert str(error.value) == quoted(start).replace('PATH', str(path))
    cfg = dict(model=dict(backbone=dict(in_channels=5)))
    pipeline = [dict(type='LoadAnyImage', channels=4)]
    with pytest.raises(UserError) as error:
        check_channels(dict(cfg, train_dataloader=dict(dataset=dict(pipeline=pipeline))))
    assert str(error.value) == quoted('train_dataloader reads')


def test_a_line_without_a_label(tmp_path):
    init_default_scope('mmpretrain')
    lines = ['red/0.png 0', 'red/1.png 1', 'red/0.png', 'red/2.png 2']
    (tmp_path / 'list.txt').write_text('\n'.join(lines))
    settings = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt')
    with pytest.raises(UserError) as error:
        check_labelled(ConfigDict(head=dict(num_classes=3)), dict(train=settings), look=False)
    assert str(error.value).replace(f'{tmp_path}/', '') == quoted("list.txt, line 3: 'red")


def test_lines_that_name_no_picture(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(listing, '_warn', said.append)
    (tmp_path / 'list.txt').write_text('0.jpg\n1.heic\n2.jpg\n3.txt\n4.jpg')
    names = read_list(tmp_path / 'list.txt', lambda name: name.endswith(EXTENSIONS))
    assert names == ['0.jpg', '2.jpg', '4.jpg']
    assert [line.replace(f'{tmp_path}/', '') for line in said] == [quoted('list.txt: 2 of 5')]
