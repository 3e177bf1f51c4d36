import numpy as np
import pytest

from mirl_mm.datasets.class_folders import (
    check_classes,
    class_folders,
    folders_of,
    some_of_each,
)
from tests.class_folders import write_classes


def test_labels_are_places_of_the_sorted_folders(tmp_path):
    found = class_folders(write_classes(tmp_path, ('red', 'blue'), 3), [])
    assert list(found.metainfo['classes']) == ['blue', 'red']
    assert found.get_gt_labels().tolist() == [0, 0, 0, 1, 1, 1]


def test_a_limit_spreads_evenly_over_each_class(tmp_path):
    found = class_folders(write_classes(tmp_path, count=5), [], limit=2)
    names = [found.get_data_info(i)['img_path'].split('/')[-2:] for i in range(len(found))]
    assert names == [[c, f'{i}.png'] for c in ('blue', 'green', 'red') for i in (0, 2)]
    assert some_of_each(np.array([1, 0, 1, 1, 0, 0]), 2) == [0, 1, 2, 4]
    assert some_of_each(np.arange(9) // 8, 4) == [0, 2, 4, 6, 8]


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    root = write_classes(tmp_path, ('red', 'blue'), 3)
    for name in ('.ipynb_checkpoints/0.png', '__MACOSX/red/._0.png', 'red/._0.png', 'red/.a/0.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((tmp_path / 'red/0.png').read_bytes())
    found = class_folders(root, [], limit=3)
    assert list(found.metainfo['classes']) == ['blue', 'red']
    assert found.get_gt_labels().tolist() == [0, 0, 0, 1, 1, 1]
    (tmp_path / 'green/.a').mkdir(parents=True)
    (tmp_path / 'green/.a/0.png').touch()
    with pytest.raises(ValueError, match=f'{root} has no image of the class green'):
        class_folders(root, [])


def test_an_empty_class_is_an_error(tmp_path):
    root = write_classes(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/notes.txt').touch()
    with pytest.raises(ValueError, match=f'{root} has no image of the class empty'):
        class_folders(root, [])


def test_other_classes_in_validation_are_an_error(tmp_path):
    train = class_folders(write_classes(tmp_path / 'a', ('blue', 'red')), [])
    val = class_folders(write_classes(tmp_path / 'b', ('green', 'red')), [])
    check_classes(train, train)
    with pytest.raises(ValueError, match=r'a and .*b differ: blue only in .*a; green only in .*b'):
        check_classes(train, val)


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder of class folders: missing'):
        class_folders('missing', [])
    (tmp_path / 'flat').mkdir()
    (tmp_path / 'flat/image.png').touch()
    with pytest.raises(ValueError, match=r'flat has no class folders; accepted are images at'):
        class_folders(str(tmp_path / 'flat'), [])
    (tmp_path / 'none/one').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'no image below .*none; accepted are files that end in'):
        class_folders(str(tmp_path / 'none'), [])
    with pytest.raises(ValueError, match='limit must be at least 1'):
        class_folders(str(tmp_path), [], limit=0)


def test_folders_of_a_config():
    train = dict(dataset=dict(data_root='data/imagenet/', data_prefix='train'))
    test = dict(dataset=dict(data_root='data/mine', data_prefix=''))
    assert folders_of(dict(train_dataloader=train, test_dataloader=test)) == (
        'data/imagenet/train',
        'data/mine',
    )
    assert folders_of(dict(train_dataloader=train, val_dataloader=test)) == (
        'data/imagenet/train',
        'data/mine',
    )
    assert folders_of(dict(train_dataloader=None)) == (None, None)
