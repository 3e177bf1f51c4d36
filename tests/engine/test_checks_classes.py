"""Class folders and lists that do not go together are one error before a run."""

import pytest
from mmengine.config import Config

from mirl_mm.datasets.packed.writing import pack_images
from mirl_mm.engine.checks import check_data
from tests.class_folders import write_classes

CLASSES = ('blue', 'green', 'red')


def config(root, train: str = 'train', val: str = 'val', number: int = 3, **settings) -> Config:
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(type='CustomDataset', data_root=f'{root}/', data_prefix=prefix, **settings)
        )
        for split, prefix in dict(train=train, val=val).items()
    }
    head = dict(type='LinearClsHead', num_classes=number)
    return Config(dict(model=dict(type='ImageClassifier', head=head), **loaders))


@pytest.fixture
def root(tmp_path):
    write_classes(tmp_path / 'train', CLASSES)
    write_classes(tmp_path / 'val', CLASSES)
    write_classes(tmp_path / 'other', ('green', 'grey', 'red'))
    write_classes(tmp_path / 'empty', CLASSES)
    (tmp_path / 'empty/yellow').mkdir()
    (tmp_path / 'flat').mkdir()
    (tmp_path / 'flat/image.png').touch()
    return tmp_path


def test_what_goes_together_passes(root):
    check_data(config(root), ['train', 'val'])
    cfg = config(root)
    cfg.model.data_preprocessor = dict(num_classes=3)
    check_data(cfg, ['train', 'val', 'test'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(val='other'), r'train and .*other differ: blue only in .*train; grey only in'),
        (dict(number=1000), r'train has 3 classes, .* give model\.head\.num_classes=3'),
        (dict(train='empty', number=4), 'empty has no image of the class yellow'),
        (dict(val='flat'), r'flat has no class folders; accepted are images at .*flat/<class>/'),
    ],
)
def test_what_does_not_is_one_error(root, change, message):
    with pytest.raises(ValueError, match=message):
        check_data(config(root, **change), ['train', 'val'])


def test_a_missing_folder_is_named_with_its_setting(root):
    with pytest.raises(FileNotFoundError, match=r'/none \(set val_dataloader\.dataset\.'):
        check_data(config(root, val='none'), ['train', 'val'])
    check_data(config(root, val='none'), ['train'])


@pytest.mark.parametrize(
    'settings', [dict(ann_file='list.txt'), dict(with_label=False), dict(split='train')]
)
def test_other_data_is_left_alone(root, settings):
    check_data(config(root, val='none', **settings), ['train', 'val'])
    cfg = config(root, val='none')
    cfg.model.type = 'MIRL'
    check_data(cfg, ['train', 'val'])


def test_inside_wrappers(root):
    cfg = config(root, val='other')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    with pytest.raises(ValueError, match=r'other differ: blue only in'):
        check_data(cfg, ['train', 'val'])
    cfg.val_dataloader.dataset.dataset.data_prefix = 'none'
    with pytest.raises(FileNotFoundError, match=r'/none \(set val_dataloader\.dataset\.dataset\.d'):
        check_data(cfg, ['train', 'val'])


def test_a_class_needs_an_image_and_not_just_a_file(root):
    (root / 'empty/yellow/notes.txt').touch()
    with pytest.raises(ValueError, match='empty has no image of the class yellow'):
        check_data(config(root, train='empty', number=4), ['train'])
    (root / 'empty/yellow/deeper').mkdir()
    (root / 'empty/yellow/deeper/1.JPG').touch()
    check_data(config(root, train='empty', number=4), ['train'])


@pytest.mark.parametrize(
    ('labels', 'number', 'classes', 'message'),
    [
        ((0, 1, 2), 3, CLASSES, None),
        ((0, 2), 3, CLASSES, r'list\.txt has no image of the class green'),
        ((0, 1, 2), 4, CLASSES, r'list\.txt has 3 classes, but the model is set to 4: give model'),
        ((0,), 4, None, None),
    ],
)
def test_lists_with_names(root, labels, number, classes, message):
    lines = [f'train/a b.png {label}\n' for label in labels]
    (root / 'list.txt').write_text(''.join(lines))
    cfg = config(root, number=number, ann_file='list.txt', classes=classes)
    if message is None:
        return check_data(cfg, ['train', 'val'])
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ['train', 'val'])


def test_names_that_are_given_are_compared(root):
    for name in ('train.txt', 'val.txt'):
        (root / name).write_text('a.png 0\na.png 1\na.png 2\n')
    cfg = config(root, classes=CLASSES, ann_file='train.txt')
    cfg.val_dataloader.dataset.update(ann_file='val.txt', classes=CLASSES[::-1])
    with pytest.raises(ValueError, match=r'train\.txt and .*val\.txt differ: the same name'):
        check_data(cfg, ['train', 'val'])
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset has 10 classes, but the mode'):
        cfg.train_dataloader.dataset = dict(type='CIFAR10', data_root=str(root))
        check_data(cfg, ['train'])


def test_packed_folders(root, tmp_path):
    pack_images(str(root), str(tmp_path / 'packed'))
    check_data(config(f'packed://{tmp_path}/packed'), ['train', 'val'])
    with pytest.raises(ValueError, match=r'packed/train and .*other differ: blue only in'):
        check_data(config(f'packed://{tmp_path}/packed', val='other'), ['train', 'val'])
