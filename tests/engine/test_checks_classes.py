"""Class folders and lists that do not go together are one error before a run."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS

from mirl_mm.datasets import class_folders, listing
from mirl_mm.datasets.packed.writing import pack_images
from mirl_mm.engine.checks import check_data
from mirl_mm.errors import UserError
from tests.class_folders import write_classes

CLASSES = ('blue', 'green', 'red')


def config(root, train: str = 'train', val: str = 'val', number: int = 3, **settings) -> Config:
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(
                dict(type='CustomDataset', data_root=f'{root}/', data_prefix=prefix), **settings
            )
        )
        for split, prefix in dict(train=train, val=val).items()
    }
    head = dict(type='LinearClsHead', num_classes=number)
    return Config(dict(model=dict(type='ImageClassifier', head=head), **loaders))


def built(settings: dict) -> CustomDataset:
    """As a runner builds it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(settings)


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
    'settings',
    [dict(ann_file='list.txt', with_label=False), dict(with_label=False), dict(split='train')],
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


IMAGES = ('blue/0.png', 'green/0.png', 'red/0.png')


def write_list(root, text: str | bytes, name: str = 'list.txt') -> None:
    text = text if isinstance(text, bytes) else text.encode()
    (root / name).write_bytes(text)


def rows(*labels: int) -> str:
    return ''.join(f'{IMAGES[i % 3]} {label}\n' for i, label in enumerate(labels))


@pytest.mark.parametrize(
    ('labels', 'number', 'classes', 'message'),
    [
        ((0, 1, 2), 3, CLASSES, None),
        ((0, 2), 3, CLASSES, r'list\.txt has no image of the class green'),
        ((0, 1, 2), 4, CLASSES, r'list\.txt has 3 classes, but the model is set to 4: give model'),
        ((0, 1, 2, 0), 3, None, None),
    ],
)
def test_lists_with_names(root, labels, number, classes, message):
    write_list(root, rows(*labels))
    cfg = config(root, number=number, ann_file='list.txt', classes=classes)
    if message is None:
        assert check_data(cfg, ['train', 'val']) == []
        return
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ['train', 'val'])


ACCEPTED = 'accepted is a path, a blank and the number of its class, from 0 to 2'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (rows(0, 1) + 'red/0.png\n', f"line 3: 'red/0.png' ends in no label; {ACCEPTED}"),
        (rows(0, 1) + '\nred/0.png two', f"line 4: 'red/0.png two' ends in no label; {ACCEPTED}"),
        (rows(0, 1) + 'red/0.png 2.0', f"line 3: 'red/0.png 2.0' ends in no label; {ACCEPTED}"),
        ('path,label\n' + rows(0, 1), f"line 1: 'path,label' ends in no label; {ACCEPTED}"),
        ('0 red/0.png\n', f"line 1: '0 red/0.png' ends in no label; {ACCEPTED}"),
        (rows(0, 1, -1), f'line 3: label -1; {ACCEPTED}'),
        (rows(0, 1, 3), f'line 3: label 3; {ACCEPTED}'),
        (
            rows(1, 2, 3),
            f'line 3: label 3; {ACCEPTED}; no line has label 0: if they start at 1, subtract 1 '
            'from all',
        ),
        (
            rows(1, 2),
            ' has no image of the class blue, which val_dataloader.dataset names; no line has '
            'label 0: if they start at 1, subtract 1 '
            'from all',
        ),
        (
            rows(0, 1, 2) + 'blue/0.png 1',
            'line 4: blue/0.png has label 1, but 0 in line 1',
        ),
        ('# nothing\n\n', f' names no image; {ACCEPTED}'),
        (rows(0, 1, 2).encode('utf-16'), ' is no text in UTF-8 (invalid start byte): save it as'),
    ],
    ids=lambda value: value[-24:] if isinstance(value, str) else 'utf-16',
)
@pytest.mark.parametrize('kind', ['CustomDataset', 'named'])
def test_a_line_that_says_something_else_is_named(root, text, message, kind):
    write_list(root, text)
    classes = CLASSES if kind == 'named' else None
    cfg = config(root, ann_file='list.txt', classes=classes)
    if kind != 'named' and 'no image of the class' in message:  # without names it may be meant
        said = f'{root}/list.txt has no image of label 0; no line has label 0: if they start at 1'
        assert check_data(cfg, ['val'])[0].startswith(said)
        return
    with pytest.raises(UserError) as error:
        check_data(cfg, ['val'])
    place, comma = f'{root}/list.txt', ', ' if message.startswith('line') else ''
    assert str(error.value).startswith(f'{place}{comma}{message}')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text',
    [
        'blue/0.png\t0\ngreen/0.png\t1\nwith  blank.png\t2\n',
        'blue/0.png,0\ngreen/0.png, 1\nwith  blank.png,2\n',
        'blue/0.png;0\r\ngreen/0.png;1\r\nwith  blank.png;2\r\n',
        '"blue/0.png" 0\n"green/0.png" 1\n"with  blank.png" 2\n',
        b'\xef\xbb\xbf' + b'blue/0.png 0\n\ngreen/0.png 1\n  \nwith  blank.png 2\n\n\n',
        '# path label\nblue/0.png 0 \n green/0.png   1\n#\nwith  blank.png 02',
    ],
    ids=['tabs', 'commas', 'semicolons and CRLF', 'quotes', 'mark, blank lines', 'comments'],
)
@pytest.mark.parametrize('kind', ['CustomDataset', 'ImageNet'])
def test_harmless_forms_of_a_list_are_read_as_they_are_meant(root, text, kind):
    (root / 'val/with  blank.png').write_bytes((root / 'val/red/0.png').read_bytes())
    write_list(root, text)
    cfg = config(root, ann_file='list.txt', classes=CLASSES, type=kind)
    assert check_data(cfg, ['val']) == []
    dataset = built(cfg.val_dataloader.dataset)
    found = [dataset.get_data_info(i) for i in range(len(dataset))]
    names = ('blue/0.png', 'green/0.png', 'with  blank.png')
    assert [info['img_path'] for info in found] == [f'{root}/val/{name}' for name in names]
    assert [info['gt_label'] for info in found] == [0, 1, 2]


def test_images_of_a_list_that_are_not_there(root, monkeypatch):
    write_list(root, rows(0, 1, 2) + 'red/gone.png 2\nred/too.png 2\n')
    cfg = config(root, ann_file='list.txt', classes=CLASSES)
    message = (
        f'{root}/list.txt, line 4: no image {root}/val/red/gone.png; 2 of 5 images that were '
        'looked for are missing: set val_dataloader.dataset.data_root and data_prefix'
    )
    with pytest.raises(FileNotFoundError, match=f'^{re.escape(message)}$'):
        check_data(cfg, ['val'])
    cfg.check_files = False
    assert check_data(cfg, ['val']) == []
    cfg.check_files = True
    monkeypatch.setattr(class_folders, 'some_of', lambda items: items[:3])
    assert check_data(cfg, ['val']) == [f'{root}/list.txt: looked for 3 of 5 images']
    cfg = config(root, ann_file='none.txt')
    with pytest.raises(FileNotFoundError, match=r'no such list of images: .*/none\.txt;'):
        check_data(cfg, ['val'])


def test_a_format_of_ones_own_is_left_alone(root):
    write_list(root, '0: blue/0.png\n')

    @MMPRETRAIN_DATASETS.register_module(force=True)
    class LabelFirst(CustomDataset):
        def load_data_list(self):
            raise AssertionError('not read before the run')

    assert check_data(config(root, type='LabelFirst', ann_file='list.txt'), ['val']) == []


def test_names_that_are_given_are_compared(root):
    for name in ('train.txt', 'val.txt'):
        write_list(root, rows(0, 1, 2), name)
    cfg = config(root, classes=CLASSES, ann_file='train.txt')
    cfg.val_dataloader.dataset.update(ann_file='val.txt', classes=CLASSES[::-1])
    with pytest.raises(ValueError, match=r'train\.txt and .*val\.txt differ: the same name'):
        check_data(cfg, ['train', 'val'])
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset has 10 classes, but the mode'):
        cfg.train_dataloader.dataset = dict(type='CIFAR10', data_root=str(root))
        check_data(cfg, ['train'])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(type='ImageNet'),
            'train has 3 class folders, but train_dataloader.dataset names 1000 classes: give '
            'train_dataloader.dataset.type=CustomDataset and no classes, which takes the names of '
            'the folders',
        ),
        (dict(classes=('blue', 'red')), 'train has 3 class folders, but train_dataloader.dataset '),
        (
            dict(classes=('red', 'green', 'blue')),
            'train_dataloader.dataset has the classes red, green, blue in another order, but labels'
            ' go by the sorted folders: give the names in that order, or none',
        ),
    ],
)
def test_names_that_do_not_fit_the_folders(root, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_data(config(root, **settings), ['train'])
    check_data(config(root, classes=CLASSES), ['train'])
    check_data(config(root, classes=('sky', 'grass', 'fire')), ['train'])


def test_packed_folders(root, tmp_path):
    pack_images(str(root), str(tmp_path / 'packed'))
    check_data(config(f'packed://{tmp_path}/packed'), ['train', 'val'])
    with pytest.raises(ValueError, match=r'packed/train and .*other differ: blue only in'):
        check_data(config(f'packed://{tmp_path}/packed', val='other'), ['train', 'val'])


# --- what is left out -----------------------------------------------------------------------------


def touch(root, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the log is told of what is left out."""
    lines = []
    monkeypatch.setattr(listing, '_warn', lines.append)
    return lines


KINDS = [dict(type='CustomDataset'), dict(type='ImageNet', metainfo=dict(classes=CLASSES))]


@pytest.mark.parametrize('settings', KINDS, ids=['CustomDataset', 'ImageNet'])
@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['.ipynb_checkpoints/0.png'], '1 hidden (.ipynb_checkpoints)'),
        (['.thumbs/0.png', '.Trash-1000/files/0.png'], '2 hidden (.'),
        (['__MACOSX/red/._0.png'], '1 hidden (__MACOSX)'),
        (['@eaDir/0.png'], '1 hidden (@eaDir)'),
        (['red/.ipynb_checkpoints/0-checkpoint.png'], '1 hidden (red/.ipynb_checkpoints)'),
        (['red/._0.png', 'red/.DS_Store'], '1 hidden (red/._0.png)'),
        (['red/a.webp', 'red/b.WEBP'], '2 .webp (red/'),
        (['red/a.heic', 'red/b', 'red/c.gif'], '1 without an ending (red/b), 1 .gif (red/c.gif), '),
        (['stray.png', 'Thumbs.db', 'README.md'], '1 in no class folder (stray.png)'),
        (['red/labels.json', 'red/notes.txt', 'classes.csv', 'red/.gitkeep'], None),
    ],
)  # fmt: skip
def test_what_a_run_does_not_read_is_said_once(root, said, settings, names, message):
    touch(root / 'train', *names)
    cfg = config(root, **settings)
    assert check_data(cfg, ['train', 'val']) == []
    assert said == []
    dataset = built(cfg.train_dataloader.dataset)
    assert list(dataset.metainfo['classes']) == list(CLASSES)
    assert dataset.get_gt_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    assert paths == [f'{root}/train/{name}/{i}.png' for name in CLASSES for i in range(4)]
    start = f'{root}/train: left out {message}'
    assert [line[: len(start)] for line in said] == ([] if message is None else [start])


def test_hidden_ones_are_no_class_in_a_packed_folder(root, tmp_path):
    touch(root, 'train/.thumbs/0.png', 'train/red/._0.png', 'train/red/.thumbs/1.png')
    names = [str(path.relative_to(root)) for path in root.rglob('*.png')]
    pack_images(str(root), str(tmp_path / 'packed'), names)
    cfg = config(f'packed://{tmp_path}/packed')
    check_data(cfg, ['train', 'val'])
    assert (
        built(cfg.train_dataloader.dataset).get_gt_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    )


def test_links_in_circles_end_and_mix_no_labels(root, tmp_path, said):
    elsewhere = tmp_path / 'elsewhere'
    touch(elsewhere, 'deep/5.png')
    (elsewhere / 'back').symlink_to(root / 'train')
    train = root / 'train'
    for name, target in {
        'itself': '.', 'up': '..', 'nothing': 'nowhere', 'me': 'me', 'red/up': '..',
        'red/itself': '.', 'blue/more': elsewhere, 'blue/gone.png': 'gone',
    }.items():  # fmt: skip
        (train / name).symlink_to(target)
    cfg = config(root)
    check_data(cfg, ['train', 'val'])
    dataset = built(cfg.train_dataloader.dataset)
    assert dataset.get_gt_labels().tolist() == [0] * 5 + [1] * 4 + [2] * 4
    assert dataset.get_data_info(4)['img_path'] == f'{train}/blue/more/deep/5.png'
    assert len(said) == 1 and '5 links in a circle or twice (' in said[0]
    assert ' 3 broken links (' in said[0]


def test_the_configs_of_this_package_take_all_endings(root):
    for name in ('classes_64px', 'classes_in1k'):
        cfg = Config.fromfile(f'configs/_base_/{name}.py')
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            assert loader.dataset.extensions == listing.EXTENSIONS
