import pytest
from mmengine.config import Config

from mirl_mm.engine.checks.folders import check_folders
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
    check_folders(config(root), ['train', 'val'])
    cfg = config(root)
    cfg.model.data_preprocessor = dict(num_classes=3)
    check_folders(cfg, ['train', 'val', 'test'])


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
        check_folders(config(root, **change), ['train', 'val'])


def test_a_missing_folder_is_named_with_its_setting(root):
    with pytest.raises(FileNotFoundError, match=r'/none \(set val_dataloader\.dataset\.'):
        check_folders(config(root, val='none'), ['train', 'val'])
    check_folders(config(root, val='none'), ['train'])


@pytest.mark.parametrize(
    'settings', [dict(ann_file='list.txt'), dict(with_label=False), dict(split='train')]
)
def test_other_data_is_left_alone(root, settings):
    check_folders(config(root, val='none', **settings), ['train', 'val'])
    cfg = config(root, val='none')
    cfg.model.type = 'MIRL'
    check_folders(cfg, ['train', 'val'])
