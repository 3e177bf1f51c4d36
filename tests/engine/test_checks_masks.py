"""Masks that would teach something else than the user means are one line before a run."""

import copy
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image
from torch._utils import ExceptionWrapper

from mirl_mm.engine.checks import check_data
from mirl_mm.engine.hooks.data import CheckLabelsHook
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError, reason_of
from tests.class_folders import write_classes
from tests.engine.test_checks_classes import config as classifier

ROOT = Path(__file__).parents[2]
CLASSES = ('background', 'disc', 'ring')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
HEIGHT, WIDTH = 16, 24
TAGS = {tag: Image.Exif() for tag in range(1, 9)}
for tag, exif in TAGS.items():
    exif[274] = tag


@pytest.fixture(scope='module')
def recipe() -> Config:
    return load_config(str(ROOT / 'configs/upernet/vit-test_20it_scenes.py'))


@pytest.fixture
def cfg(recipe, tmp_path) -> Config:
    """A config with three pictures to train on and two to validate with, of three classes."""
    cfg = copy.deepcopy(recipe)
    for loader in LOADERS:
        cfg[loader].dataset.data_root = f'{tmp_path}/'
    named(cfg, CLASSES)
    for split, count in (('train', 3), ('val', 2)):
        for kind in ('images', 'masks'):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            add(tmp_path, split, str(i))
    return cfg


def named(cfg: Config, classes: tuple[str, ...]) -> None:
    for loader in LOADERS:
        cfg[loader].dataset.metainfo = dict(classes=classes)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = len(classes)


def add(root: Path, split: str, name: str, image: str = '.jpg', mask: str = '.png') -> None:
    Image.new('RGB', (WIDTH, HEIGHT), (90, 60, 30)).save(root / f'images/{split}/{name}{image}')
    save(root / f'masks/{split}/{name}{mask}', [0, 1, 2])


def save(file: Path, values: list[int], mode: str = 'L') -> None:
    """A mask with columns of those values."""
    pixels = np.resize(np.repeat(values, 2), (HEIGHT, WIDTH))
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file)


def masks_of(root: Path, split: str = 'train') -> list[Path]:
    found = sorted((root / f'masks/{split}').iterdir())
    assert found
    return found


def refused(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> str:
    with pytest.raises(UserError) as error:
        check_data(cfg, splits)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_sound_masks_pass_and_nothing_is_said(cfg, tmp_path):
    before = cfg.to_dict()
    save(masks_of(tmp_path)[0], [0, 1, 2, 255], 'P')
    save(masks_of(tmp_path, 'val')[0], [255])  # one of several
    assert check_data(cfg, ['train', 'val']) == []
    assert cfg.to_dict() == before


def without_the_first_mask(root: Path) -> None:
    (root / 'masks/train/0.png').unlink()


MISSING = [
    (
        {'train_dataloader.dataset.data_prefix.img_path': 'pictures'},
        None,
        r'no folder .*/pictures; set train_dataloader\.dataset\.data_root and .*img_path',
    ),
    (
        {'train_dataloader.dataset.data_prefix.seg_map_path': 'labels'},
        None,
        r'no folder .*/labels; set .*seg_map_path',
    ),
    (
        {'train_dataloader.dataset.img_suffix': '.png'},
        None,
        r"no image in .*images/train ends in '\.png'; set train_dataloader\.dataset\.img_suffix",
    ),
    (
        {'train_dataloader.dataset.ann_file': 'train.txt'},
        None,
        r'no list of images at .*train\.txt; set train_dataloader\.dataset\.ann_file',
    ),
    (
        {},
        without_the_first_mask,
        r'1 of 3 images in .* have no mask; the first is 0\.jpg, whose mask would be .*0\.png',
    ),
    (
        {'train_dataloader.dataset.ann_file': 'list.txt'},
        lambda root: (root / 'list.txt').write_text('0\n1.jpg\n'),
        r'list\.txt line 2: no picture at .*1\.jpg\.jpg; accepted is a name a line, without its',
    ),
    (
        {'train_dataloader.dataset.ann_file': 'list.txt'},
        lambda root: (root / 'list.txt').write_text('0\tmasks/0.png\n'),
        r'list\.txt line 1: no picture at .*0\tmasks/0\.png\.jpg; accepted is a name a line',
    ),
]


@pytest.mark.parametrize(('changes', 'damage', 'message'), MISSING)
def test_files_that_are_not_there(cfg, tmp_path, changes, damage, message):
    cfg.merge_from_dict(changes)
    if damage:
        damage(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        check_data(cfg, ['train'])


def test_a_set_without_names(cfg):
    cfg.train_dataloader.dataset.pop('metainfo')
    wanted = 'train_dataloader.dataset names no classes: give train_dataloader.dataset.metainfo'
    assert refused(cfg).startswith(wanted)


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA', 'I;16', 'I', 'F', 'CMYK', 'PA'])
def test_one_mask_of_another_mode(cfg, tmp_path, mode, split):
    file = masks_of(tmp_path, split)[-1]
    if mode in ('F', 'CMYK', 'PA'):  # what PNG cannot hold
        cfg[f'{split}_dataloader'].dataset.seg_map_suffix = '.tif'
        for path in masks_of(tmp_path, split):
            Image.open(path).save(path.with_suffix('.tif'))
        file = file.with_suffix('.tif')
    if mode == 'PA':
        mode = 'RGBX'
    image = Image.new(mode, (WIDTH, HEIGHT))
    image.save(file)
    accepted = 'masks of one 8-bit channel that holds class indices (L; for Pillow also P)'
    with Image.open(file) as stored:
        mode = stored.mode
    assert refused(cfg) == f'{file} is an image of mode {mode}; accepted are {accepted}'


def test_a_palette_is_read_by_pillow_alone(cfg, tmp_path):
    for file in masks_of(tmp_path):
        save(file, [0, 1, 2], 'P')
    check_data(cfg, ['train'])
    cfg.train_dataloader.dataset.pipeline[1].imdecode_backend = 'cv2'
    assert 'masks/train/0.png is an image of mode P; accepted are' in refused(cfg)


@pytest.mark.parametrize(
    ('values', 'shown'), [([0, 3], '3'), ([0, 128, 255], '128'), ([1, 2, 3, 200], '3, 200')]
)
@pytest.mark.parametrize('split', ['train', 'val'])
def test_values_of_no_class(cfg, tmp_path, values, shown, split):
    file = masks_of(tmp_path, split)[-1]
    save(file, values)
    accepted = '0 to 2, for the 3 classes of the model, and 255, which is ignored'
    assert refused(cfg) == f'the mask {file} has the label {shown}; accepted are {accepted}'


def test_values_are_those_that_the_loader_gives(cfg, tmp_path):
    """With reduce_zero_label and the head's own ignored value."""
    save(masks_of(tmp_path)[-1], [0, 1, 2, 3])
    cfg.train_dataloader.dataset.reduce_zero_label = True
    assert check_data(cfg, ['train']) == []
    save(masks_of(tmp_path)[-1], [4])
    assert 'has the label 3 (after 0 became the ignored one); accepted are 0 to 2' in refused(cfg)
    cfg.train_dataloader.dataset.reduce_zero_label = False
    cfg.model.decode_head.ignore_index = 4
    assert check_data(cfg, ['train']) == []
    save(masks_of(tmp_path)[-1], [255])
    assert 'label 255; accepted are 0 to 2, for the 3 classes of the model, and 4' in refused(cfg)


def test_jpeg_changes_values(cfg, tmp_path):
    cfg.train_dataloader.dataset.seg_map_suffix = '.jpg'
    for file in (tmp_path / 'masks/train').glob('*.png'):
        save(file.with_suffix('.jpg'), [0, 255])
    assert refused(cfg).endswith('which is ignored (JPEG changes values: save masks as PNG)')


ONE = 'the masks in {masks} have one class alone, '
TEACH_NOTHING = [
    (
        [0, 255],
        ONE + "0 ('background'); the rest is 255, which is ignored: "
        'if 255 marks objects, write 1 there: mask[mask == 255] = 1',
    ),
    (
        [1, 255],
        ONE + "1 ('disc'); the rest is 255, which is ignored: "
        'if 255 marks the background, write 0 there: mask[mask == 255] = 0',
    ),
    ([0], ONE + "0 ('background'): accepted are masks with several of 0 to 2"),
    ([2], ONE + "2 ('ring'): accepted are masks with several of 0 to 2"),
    (
        [255],
        'the masks in {masks} have no class; the rest is 255, which is ignored: '
        'if 255 marks objects, write 1 there: mask[mask == 255] = 1',
    ),
]


@pytest.mark.parametrize(('values', 'message'), TEACH_NOTHING)
@pytest.mark.parametrize('mode', ['L', 'P'])
def test_masks_that_teach_nothing(cfg, tmp_path, values, message, mode):
    for file in masks_of(tmp_path):
        save(file, values, mode)
    where = tmp_path / 'masks/train'
    assert refused(cfg) == f'train_dataloader.dataset: {message.format(masks=where)}'
    cfg.check_files = False
    assert check_data(cfg, ['train', 'val']) == []


def test_a_background_that_is_reduced_away(cfg, tmp_path):
    for file in masks_of(tmp_path):
        save(file, [0, 1])
    cfg.train_dataloader.dataset.reduce_zero_label = True
    how = "('background'); the rest is 255, which is ignored: if 0 is a class, set "
    assert how + 'train_dataloader.dataset.reduce_zero_label=False' in refused(cfg)


def test_masks_of_two_values_as_bits(cfg, tmp_path):
    for file in masks_of(tmp_path):
        save(file, [0, 255], '1')  # which are read as 0 and 1
    named(cfg, CLASSES[:2])
    assert check_data(cfg, ['train']) == []


def test_validation_may_have_one_class_but_not_none(cfg, tmp_path):
    for file in masks_of(tmp_path, 'val'):
        save(file, [0, 255])
    (note,) = check_data(cfg, ['train', 'val'])
    assert note.startswith('val_dataloader.dataset: the masks in ')
    assert note.endswith('if 255 marks objects, write 1 there: mask[mask == 255] = 1')
    for file in masks_of(tmp_path, 'val'):
        save(file, [255])
    assert 'have no class; the rest is 255' in refused(cfg)


def test_a_part_of_a_set_may_have_one_class(cfg, tmp_path):
    part = dict(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[part])
    for file in masks_of(tmp_path):
        save(file, [0])
    (note,) = check_data(cfg, ['train'])
    assert note.startswith('train_dataloader.dataset.datasets.0: the masks in ')


def test_a_class_that_never_occurs(cfg, tmp_path):
    for split in ('train', 'val'):
        for file in masks_of(tmp_path, split):
            save(file, [0, 2, 255])
    said = "train_dataloader.dataset: no mask that was opened before the run has the class 'disc'"
    assert check_data(cfg, ['train', 'val']) == [said]


def test_one_class_alone(cfg):
    named(cfg, ('disc',))
    both = (
        "train_dataloader.dataset.metainfo.classes=('background', 'disc'), num_classes=2, masks of "
        '0 and 1'
    )
    why = 'nothing to tell it from, and the loss goes to 0'
    message = f"train_dataloader.dataset has one class ('disc'): {why}; accepted are two: {both}"
    assert refused(cfg) == message
    cfg.check_files = False
    assert refused(cfg) == message
    cfg.model.decode_head = [cfg.model.decode_head] * 2
    assert refused(cfg) == message
    cfg.model.decode_head = dict(num_classes=2)
    assert refused(cfg) == message


@pytest.mark.parametrize('place', ['decode_head', 'auxiliary_head'])
def test_a_head_of_one_class(cfg, place):
    cfg.model[place].num_classes = 1
    said = refused(cfg)
    assert said.startswith(f'model.{place}.num_classes=1, but train_dataloader.dataset has 3')
    cfg.model[place] = [cfg.model[place]]
    assert refused(cfg).startswith(f'model.{place}.0.num_classes=1, but ')


@pytest.mark.parametrize(
    ('head', 'refused'),
    [
        (dict(), True),
        (dict(type='VisionTransformerClsHead', loss=dict(type='LabelSmoothLoss')), True),
        (dict(loss=dict(type='CrossEntropyLoss', use_sigmoid=True)), False),
        (dict(type='MultiLabelLinearClsHead'), False),
    ],
)
def test_a_classifier_of_one_class(tmp_path, head, refused):
    for split in ('train', 'val'):
        write_classes(tmp_path / split, ['red'])
    cfg = classifier(tmp_path, number=1)
    cfg.model.head.update(head)
    if not refused:
        assert check_data(cfg, ['train', 'val']) == []
        return
    one = r'model\.head\.num_classes=1: nothing to tell one class from, and the loss is 0; accepted'
    with pytest.raises(ValueError, match=one):
        check_data(cfg, ['train', 'val'])


def test_one_class_beside_no_object(cfg, tmp_path):
    named(cfg, ('disc',))
    cfg.model.pop('auxiliary_head')
    cfg.model.decode_head = dict(type='Mask2FormerHead', num_classes=1, loss_cls=dict())
    for split in ('train', 'val'):
        for file in masks_of(tmp_path, split):
            save(file, [0, 255])
    assert check_data(cfg, ['train', 'val']) == []


def test_one_output_under_a_sigmoid(cfg, tmp_path):
    named(cfg, CLASSES[:2])
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.out_channels, head.loss_decode.use_sigmoid = 1, True
    for split in ('train', 'val'):
        for file in masks_of(tmp_path, split):
            save(file, [0, 1])
    assert check_data(cfg, ['train', 'val']) == []


@pytest.mark.parametrize('split', LOADERS)
def test_a_mask_of_another_size(cfg, tmp_path, split):
    split = split.partition('_')[0]
    folder = 'train' if split == 'train' else 'val'
    file = masks_of(tmp_path, folder)[-1]
    Image.open(file).resize((12, 8), Image.Resampling.NEAREST).save(file)
    image = tmp_path / f'images/{folder}/{file.stem}.jpg'
    sizes = f'the mask {file} has 12 x 8 pixels, its picture {image} 24 x 16 (width x height)'
    assert refused(cfg, [split]) == f'{sizes}; accepted are masks of the size of their picture'


@pytest.mark.parametrize('tag', [1, 3, 6])
@pytest.mark.parametrize('ending', ['.jpg', '.png', '.webp', '.tif'])
def test_turned_pictures(cfg, tmp_path, tag, ending):
    """The check knows what the reader gives, whatever the format."""
    for file in masks_of(tmp_path):
        name = f'images/train/{file.stem}'
        Image.open(tmp_path / f'{name}.jpg').save(tmp_path / f'{name}{ending}', exif=TAGS[tag])
    settings = cfg.train_dataloader.dataset
    settings.img_suffix = ending
    with DefaultScope.overwrite_default_scope('mmseg'):
        reader = TRANSFORMS.build(settings.pipeline[0])
    image = reader(dict(img_path=str(tmp_path / f'images/train/0{ending}')))['img']
    assert (image.shape[:2] == (WIDTH, HEIGHT)) == (tag == 6)
    if tag == 6:
        message = refused(cfg)
        assert '/0.png has 24 x 16 pixels, its picture' in message
        assert "the picture's EXIF tag turns it, and the mask is not" in message
    else:
        notes = [note for note in check_data(cfg, ['train']) if 'leaves out' not in note]
        assert len(notes) == (tag == 3)
    for file in masks_of(tmp_path):
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    if tag == 6:
        check_data(cfg, ['train'])
    else:
        assert '/0.png has 16 x 24 pixels, its picture' in refused(cfg)


def test_pictures_that_are_not_turned_are_left_to_the_loader(cfg, tmp_path):
    Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / 'images/train/1.jpg', exif=TAGS[6])
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    assert check_data(cfg, ['train']) == []


@pytest.mark.parametrize(('tag', 'square'), [(2, False), (3, False), (4, False), (6, True)])
def test_turns_that_no_size_shows(cfg, tmp_path, tag, square):
    size = (16, 16) if square else (WIDTH, HEIGHT)
    file = tmp_path / 'images/train/1.jpg'
    Image.new('RGB', size).save(file, exif=TAGS[tag])
    Image.open(masks_of(tmp_path)[1]).crop((0, 0, *size)).save(masks_of(tmp_path)[1])
    which = f'turned by their EXIF tag so that no size shows it (1, as {file})'
    said = f'train_dataloader.dataset has pictures {which}: see that their masks are turned, too'
    assert check_data(cfg, ['train']) == [said]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def emptied(file: Path) -> None:
    file.write_bytes(b'')


def text(file: Path) -> None:
    file.write_text('no picture')


def turned_bits(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def smaller(file: Path) -> None:
    Image.open(file).resize((12, 8), Image.Resampling.NEAREST).save(file)


def coloured(file: Path) -> None:
    Image.open(file).convert('RGB').save(file)


def of_16_bits(file: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 256, np.uint16)).save(file)  # 0 in its lower 8 bits


BROKEN = [
    (cut, 'the mask {} cannot be read: '),
    (emptied, 'the mask {} cannot be read: '),
    (text, 'the mask {} cannot be read: '),
    (turned_bits, 'the mask {} cannot be read: '),
    (smaller, 'the mask {} has 12 x 8 pixels, its picture '),
    (coloured, '{} is an image of mode RGB; accepted are '),
    (of_16_bits, '{} is an image of mode I;16; accepted are '),
]
IDS = [damage.__name__ for damage, _ in BROKEN]


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(('damage', 'message'), BROKEN, ids=IDS)
def test_a_broken_mask_before_the_run(cfg, tmp_path, damage, message, split):
    file = masks_of(tmp_path, split)[-1]
    damage(file)
    assert refused(cfg).startswith(message.format(file))


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
@pytest.mark.parametrize(('damage', 'message'), BROKEN, ids=IDS)
def test_a_broken_mask_in_the_loader(cfg, tmp_path, damage, message, stage):
    """Of those that were not opened before, inside wrappers, and in one line behind a worker."""
    settings = cfg[f'{stage}_dataloader'].dataset
    if stage == 'train':
        settings = dict(
            type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[settings])
        )
    elif stage == 'test':
        steps = [[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
        settings.pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='TestTimeAug', transforms=steps),
        ]
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(settings)
    runner = SimpleNamespace(**{f'{stage}_dataloader': SimpleNamespace(dataset=dataset)})
    for _ in range(2):  # validation comes more than once
        getattr(CheckLabelsHook(), f'before_{stage}_epoch')(runner)
    sound = pickle.loads(pickle.dumps(dataset))[1]['data_samples']
    sound = sound[0] if isinstance(sound, list) else sound
    assert sound.gt_sem_seg.data.unique().tolist() == [0, 1, 2]
    file = masks_of(tmp_path, 'train' if stage == 'train' else 'val')[-1]
    damage(file)
    with pytest.raises(UserError) as error:
        try:
            [dataset[i] for i in range(len(dataset))]
        except UserError:
            ExceptionWrapper(where='in a worker').reraise()  # as a DataLoader hands it on
    said = reason_of(error.value)
    assert said.startswith(message.format(file))
    assert '\n' not in said


def test_transforms_of_others_are_left_alone(cfg, tmp_path):
    for file in masks_of(tmp_path):
        text(file)
    cfg.train_dataloader.dataset.pipeline[1].type = 'LoadBiomedicalAnnotation'
    assert check_data(cfg, ['train']) == []


def test_what_was_not_opened_is_said(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr('mirl_mm.engine.checks.masks.some_of', lambda pairs: pairs[:2])
    text(masks_of(tmp_path)[-1])
    said = 'train_dataloader.dataset: 2 of 3 masks were opened before the run'
    assert check_data(cfg, ['train']) == [said]
    text(masks_of(tmp_path)[1])
    cfg.check_files = False
    assert check_data(cfg, ['train']) == []
    coloured(masks_of(tmp_path)[0])
    assert 'mode RGB' in refused(cfg)  # the first is opened all the same


@pytest.mark.parametrize('image', ['.JPG', '.jpeg', '.png', '.webp', '.tif'])
@pytest.mark.parametrize('mask', ['.png', '.PNG'])
def test_pictures_with_another_ending(cfg, tmp_path, image, mask):
    for name in ('b', 'a'):
        add(tmp_path, 'train', name, image, mask)
    for suffix in ('.json', '.txt'):  # notes beside them
        (tmp_path / f'images/train/0{suffix}').touch()
    first = tmp_path / f'masks/train/a{mask}'
    which = f"masks without a picture that ends in '.jpg' (2, as {first})"
    said = f'train_dataloader.dataset leaves out {which}: see img_suffix, or rename'
    assert check_data(cfg, ['train', 'val']) == [said]


def test_what_is_no_picture_of_the_set_is_not_spoken_of(cfg, tmp_path):
    """Notes, pictures without a mask, and masks that lie beside their pictures."""
    (tmp_path / 'images/train/0.txt').write_text('a note')
    Image.new('RGB', (4, 4)).save(tmp_path / 'images/train/new.PNG')
    for file in masks_of(tmp_path, 'val'):
        os.rename(file, tmp_path / 'images/val' / file.name)
    cfg.val_dataloader.dataset.data_prefix.seg_map_path = 'images/val'
    assert check_data(cfg, ['train', 'val']) == []
    cfg.train_dataloader.dataset.ann_file = 'list.txt'
    (tmp_path / 'list.txt').write_text('1\n')
    assert check_data(cfg, ['train']) == []


def test_masks_without_a_picture(cfg, tmp_path):
    for name in ('0', '2'):
        (tmp_path / f'images/train/{name}.jpg').unlink()
    (note,) = check_data(cfg, ['train'])
    assert f"masks without a picture that ends in '.jpg' (2, as {tmp_path}/masks/train/0" in note


def test_endings_of_several_parts(cfg, tmp_path):
    """As in Cityscapes: the name goes on behind what picture and mask share."""
    for folder, old, new in (('images', '.jpg', '_left.png'), ('masks', '.png', '_ids.png')):
        for file in (tmp_path / folder / 'train').iterdir():
            Image.open(file).save(str(file).replace(old, new))
            file.unlink()
    (tmp_path / 'masks/train/0_colour.png').touch()
    settings = cfg.train_dataloader.dataset
    settings.img_suffix, settings.seg_map_suffix = '_left.png', '_ids.png'
    assert check_data(cfg, ['train']) == []
    os.rename(tmp_path / 'images/train/0_left.png', tmp_path / 'images/train/0_left.PNG')
    (note,) = check_data(cfg, ['train'])
    assert f"ends in '_left.png' (1, as {tmp_path}/masks/train/0_ids.png)" in note
