"""Annotations in COCO's format: what is refused, repaired in a copy, or taken with a word."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine.checks import check_data
from mirl_mm.engine.checks.annotations import _unpacked
from mirl_mm.engine.launch import load_config

pytestmark = pytest.mark.dense
ROOT = Path(__file__).parents[2]
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
CLASSES = ('box', 'disc')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    return write_scenes(tmp_path_factory.mktemp('scenes') / 'set', num_train=3, num_val=2, size=64)


def config(scenes: SceneSet) -> Config:
    cfg = load_config(str(ROOT / 'configs/mask-rcnn/vit-test_20it_scenes.py'))
    for loader in LOADERS:
        cfg[loader].dataset.data_root = f'{scenes.root}/'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(scenes.annotations('val'))
    return cfg


def wrapped(dataset: dict) -> dict:
    return dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset])
    )


BAD_COCO = [
    (
        {'train_dataloader.dataset.ann_file': 'annotations/instances_trian.json'},
        FileNotFoundError,
        r'no annotation file at .*instances_trian\.json; set train_dataloader\.dataset\.data_root',
    ),
    (
        {'train_dataloader.dataset.data_root': 'data/nowhere/'},
        FileNotFoundError,
        r'no annotation file at data/nowhere/annotations/instances_train\.json',
    ),
    (
        {'train_dataloader.dataset.data_prefix.img': 'pictures/'},
        FileNotFoundError,
        r'lists 000001\.jpg, and there is no .*pictures/000001\.jpg; set .*data_prefix\.img',
    ),
    (
        {'val_dataloader.dataset.metainfo.classes': ('disc', 'crosses', 'square')},
        ValueError,
        r"val_dataloader\.dataset asks for the categories 'crosses', 'square', which "
        r".*instances_val\.json does not have; it has 'disc', 'cross', 'triangle'",
    ),
    (
        {'train_dataloader.dataset.metainfo.classes': ('cross', 'disc')},
        ValueError,
        r"another order than the categories .* there is \('disc', 'cross'\)",
    ),
    (
        {'train_dataloader.dataset.metainfo.classes': 'disc'},
        ValueError,
        r"classes='disc' is one string; accepted are a tuple of names \(one name: \('disc',\)\)",
    ),
    (
        {'val_evaluator.ann_file': 'other.json'},
        ValueError,
        r'val_evaluator\.ann_file is other\.json, but val_dataloader\.dataset reads .*_val\.json',
    ),
]


@pytest.mark.parametrize(('changes', 'kind', 'message'), BAD_COCO)
@pytest.mark.parametrize('inside', [False, True], ids=['plain', 'wrapped'])
def test_bad_annotations(scenes, changes, kind, message, inside):
    cfg = config(scenes)
    for key in changes:  # the number of classes is another test's
        if key.endswith('classes'):
            number = len(changes[key])
            cfg.model.roi_head.bbox_head.num_classes = number
            cfg.model.roi_head.mask_head.num_classes = number
            other = 'val' if key.startswith('train') else 'train'
            cfg[f'{other}_dataloader'] = None
    cfg.merge_from_dict(changes)
    if inside:
        for loader in LOADERS:
            if cfg[loader]:
                cfg[loader].dataset = wrapped(cfg[loader].dataset)
        message = message.replace(r'dataset', r'dataset[.\w]*')
    with pytest.raises(kind, match=message):
        check_data(cfg, ['train', 'val'])


def entry(number: int, image: int, category: int, x: float, y: float, **more: object) -> dict:
    """A sound object of 20 x 10 pixels."""
    outline = [[x, y, x + 20, y, x + 20, y + 10, x, y + 10]]
    place = dict(image_id=image, category_id=category, bbox=[x, y, 20, 10])
    return dict(id=number, **place, area=200, iscrowd=0, segmentation=outline) | more


class Own:
    """Four pictures of 60 x 40 and six objects of two classes, and a config that reads them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'pictures').mkdir()
        self.content = dict(
            info=dict(categories='two', file_name='own.json'),
            images=[dict(id=i, file_name=f'{i}.jpg', width=60, height=40) for i in range(1, 5)],
            annotations=[entry(i, 1 + i % 4, (3, 7)[i % 2], 2 * i, 3 * i) for i in range(1, 7)],
            categories=[dict(id=3, name='box'), dict(id=7, name='disc')],
        )
        for image in self.images:
            Image.new('RGB', (60, 40)).save(root / 'pictures' / image['file_name'])

    @property
    def images(self) -> list[dict]:
        return self.content['images']

    @property
    def annotations(self) -> list[dict]:
        return self.content['annotations']

    @property
    def file(self) -> Path:
        return self.root / 'own.json'

    def config(self, encoding: str = 'utf-8', **changes: object) -> Config:
        self.file.write_text(json.dumps(self.content), encoding)
        cfg = load_config(str(ROOT / 'configs/mask-rcnn/vit-test_20it_scenes.py'))
        for loader in LOADERS:
            place = dict(
                data_root=str(self.root), ann_file='own.json', metainfo=dict(classes=CLASSES)
            )
            cfg[loader].dataset.merge(dict(place, data_prefix=dict(img='pictures')))
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(self.file)
        cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
        cfg.work_dir = str(self.root / 'work')
        cfg.merge_from_dict(changes)
        return cfg

    def check(self, split: str = 'train', **changes: object) -> list[str]:
        return check_data(self.config(**changes), [split])


@pytest.fixture
def own(tmp_path) -> Own:
    return Own(tmp_path)


def without(**words: str) -> Callable[[Own], None]:
    """Take a field out of the second entry of images, annotations or categories."""

    def change(own: Own) -> None:
        for name, field in words.items():
            del own.content[name][1][field]

    return change


def second(**fields: object) -> Callable[[Own], None]:
    return lambda own: own.annotations[1].update(fields)


def every(**fields: object) -> Callable[[Own], None]:
    return lambda own: [each.update(fields) for each in own.annotations] and None


def image(**fields: object) -> Callable[[Own], None]:
    return lambda own: own.images[1].update(fields)


def content(**fields: object) -> Callable[[Own], None]:
    return lambda own: own.content.update(fields)


def category(**fields: object) -> Callable[[Own], None]:
    return lambda own: own.content['categories'][1].update(fields)


def corners(own: Own) -> None:
    for each in own.annotations:
        x, y, w, h = each['bbox']
        each.update(bbox=[x + 20, y, x + 20 + w, y + h], segmentation=[[x, y, x, y + 9, x + 9, y]])


def normalised(own: Own) -> None:
    for each in own.annotations:
        each['bbox'] = [value / 60 for value in each['bbox']]
        each['segmentation'] = [[value / 60 for value in each['segmentation'][0]]]


SEGMENTATION = (
    r'\(1 of 6 annotations\); accepted is \[\[x1, y1, x2, y2, x3, y3, \.\.\.\], \.\.\.\] in pixels'
    r', or an RLE of the size of its image'
)
BOX = (
    r'\(1 of 6 annotations\); accepted is \[x, y, width, height\] in pixels, below 1e6, width and '
    'height not below 0'
)
RLE = dict(size=[40, 60], counts=[1200, 1200])
REFUSED = {
    'no segmentation': (without(annotations='segmentation'), 'no segmentation ' + SEGMENTATION),
    'null': (second(segmentation=None), 'segmentation=None ' + SEGMENTATION),
    'no polygon': (second(segmentation=[]), r'segmentation=\[\] ' + SEGMENTATION),
    'an empty polygon': (second(segmentation=[[]]), r'segmentation=\[\[\]\] ' + SEGMENTATION),
    'two points': (second(segmentation=[[1, 2, 3, 4]]), r'\[\[1, 2, 3, 4\]\] ' + SEGMENTATION),
    'an odd length': (second(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), SEGMENTATION),
    'one of two is short': (second(segmentation=[[1] * 8, [1] * 5]), SEGMENTATION),
    'flat': (second(segmentation=[1, 2, 3, 4, 5, 6]), r'\[1, 2, 3, 4, 5, 6\] ' + SEGMENTATION),
    'too deep': (second(segmentation=[[[1, 2], [3, 4], [5, 6]] * 2]), SEGMENTATION),
    'text': (second(segmentation='1 2 3 4 5 6'), SEGMENTATION),
    'coordinates in quotes': (second(segmentation=[['1', '2', '3', '4', '5', '6']]), SEGMENTATION),
    'a coordinate is null': (second(segmentation=[[1, 2, None, 4, 5, 6]]), SEGMENTATION),
    'not a number': (second(segmentation=[[1, 2, float('nan'), 4, 5, 6]]), 'nan.*' + SEGMENTATION),
    'infinite': (second(segmentation=[[1, 2, 3, 4, 5, float('inf')]]), 'inf.*' + SEGMENTATION),
    'RLE turned': (second(segmentation=RLE | dict(size=[60, 40])), SEGMENTATION),
    'RLE of another size': (second(segmentation=RLE | dict(size=[80, 60])), SEGMENTATION),
    'RLE too short': (second(segmentation=RLE | dict(counts=[1200, 1000])), SEGMENTATION),
    'RLE of negative runs': (second(segmentation=RLE | dict(counts=[-5, 2405])), SEGMENTATION),
    'RLE without counts': (second(segmentation=dict(size=[40, 60])), SEGMENTATION),
    'RLE of a crowd': (second(iscrowd=1, segmentation=RLE | dict(size=[4, 6])), SEGMENTATION),
    'no bbox': (without(annotations='bbox'), 'annotation 2 of 3.jpg has no bbox ' + BOX),
    'bbox is null': (second(bbox=None), 'bbox=None ' + BOX),
    'an empty bbox': (second(bbox=[]), r'bbox=\[\] ' + BOX),
    'bbox of three': (second(bbox=[1, 2, 3]), r'bbox=\[1, 2, 3\] ' + BOX),
    'bbox in quotes': (second(bbox=['1', '2', '3', '4']), BOX),
    'bbox as text': (second(bbox='1234'), BOX),
    'negative width': (second(bbox=[9, 9, -5, 5]), r'bbox=\[9, 9, -5, 5\] ' + BOX),
    'bbox has NaN': (second(bbox=[9, float('nan'), 5, 5]), BOX),
    'bbox is infinite': (second(bbox=[9, 9, float('inf'), 5]), BOX),
    'bbox of no picture': (second(bbox=[9, 9, 5, 2**63], iscrowd=1), BOX),
    'bbox far away': (second(bbox=[-1e6, 9, 5, 5]), BOX),
    'bbox beside the image': (
        second(bbox=[70, 5, 20, 10]),
        r'bbox=\[70, 5, 20, 10\] \(1 of 6 .*accepted is \[x, y, width, height\] in pixels of the',
    ),
    'corners': (corners, r'bbox=\[22, 3, 42, 13\] .* in pixels of the image, no corners$'),
    'parts of the image': (
        normalised,
        r'has no object of .* 6 of 6 narrower than a pixel \(parts of the image\?\)$',
    ),
    'category unknown': (
        second(category_id=4),
        r'annotation 2 of 3\.jpg has category_id=4 \(1 of 6 annotations\); accepted is the id of '
        'one of its categories: 3, 7$',
    ),
    'all unknown': (every(category_id=0), r'annotation 1 .* category_id=0 \(6 of 6 annotations\)'),
    'category in quotes': (second(category_id='3'), "category_id='3' .* categories: 3, 7"),
    'category is a list': (second(category_id=[3]), r'category_id=\[3\] .* categories: 3, 7'),
    'no category': (without(annotations='category_id'), 'no category_id .* categories: 3, 7'),
    'image unknown': (
        second(image_id=9),
        r"annotation 2 has image_id=9 \(1 of 6 annotations\); accepted is the id of one of its 'im",
    ),
    'image in quotes': (
        every(image_id='1'),
        r"annotation 1 has image_id='1' \(6 of 6 annotations\)",
    ),
    'no image': (without(annotations='image_id'), 'annotation 2 has no image_id'),
    'one id twice': (
        second(id=1),
        r'annotation 1 of 2\.jpg has id=1 \(2 of 6 .*is an id that no other annotation has',
    ),
    'iscrowd is a word': (second(iscrowd='no'), "iscrowd='no' .* accepted is 0 or 1"),
    'iscrowd of 2': (second(iscrowd=2), r'iscrowd=2 \(1 of 6 annotations\); accepted is 0 or 1'),
    'crowds alone': (
        every(iscrowd=1),
        "has no object of 'box', 'disc' to learn or find: 6 of 6 .* are crowds",
    ),
    'no annotation': (content(annotations=[]), r"'annotations' is \[\]; accepted is a list of at"),
    'annotations are no list': (content(annotations={'1': {}}), "'annotations' is {'1': {}}; acc"),
    'an annotation is null': (content(annotations=[None]), r"'annotations' is \[None\]; accepted"),
    'no images': (content(images=[]), r"'images' is \[\]; accepted is a list of at least one dict"),
    'one image twice': (
        image(id=1),
        r'image 1 has id=1 \(2 of 4 images\); accepted is an id that no other image has',
    ),
    'an image without id': (without(images='id'), r'image None has no id \(1 of 4 images\)'),
    'an image without name': (without(images='file_name'), 'image 2 has no file_name .* is a path'),
    'an empty name': (image(file_name=''), "image 2 has file_name='' .*; accepted is a path below"),
    'a name that is none': (image(file_name=7), 'image 2 has file_name=7'),
    'no width': (without(images='width'), r'image 2 has no width \(1 of 4 images\); accepted is'),
    'height in quotes': (image(height='40'), "image 2 has height='40' .* is a number of pixels"),
    'wrong width': (
        image(width=80),
        r'image 2 \(2\.jpg\) has 80 x 40 pixels there and 60 x 40 in the picture \(width x height; '
        r'1 of 4 pictures opened\); accepted are width, height and annotations of the picture as ',
    ),
    'width and height exchanged': (
        image(width=40, height=60),
        'has 40 x 60 pixels there and 60 x 40 in the picture',
    ),
    'one category id twice': (category(id=3), r'2 categories have the id 3 \(ids 3, 3\); give'),
    'a category without name': (
        without(categories='name'),
        r"category 7 has no name .*accepted is dict\(id=1, name='one'\)",
    ),
    'categories are names': (
        content(categories=['box', 'disc']),
        r"is \['box', 'disc'\]; accepted",
    ),
}


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(('change', 'message'), REFUSED.values(), ids=REFUSED)
def test_refused(own, change, message, split):
    change(own)
    with pytest.raises(ValueError, match=message) as caught:
        own.check(split)
    assert str(caught.value).startswith(str(own.file)) and '\n' not in str(caught.value)


def test_sound_files_pass_and_are_read_where_they_are(own):
    from pycocotools import mask

    diagonal = np.eye(40, 60, dtype=np.uint8, order='F')
    packed = mask.encode(diagonal)['counts'].decode()
    more = [
        entry(7, 1, 3, 1, 1, segmentation=RLE, bbox=[30, 0, 30, 40]),
        entry(8, 1, 3, 1, 1, segmentation=RLE, bbox=[30, 0, 30, 40], iscrowd=True),
        entry(9, 1, 7, 1, 1, segmentation=dict(size=[40, 60], counts=packed), area=0.5),
        entry(10, 2, 7, 5.5, 6.5, bbox=[5.5, 6.5, 20.7, 10.2], keypoints=[1, 2, 3], score=1),
    ]
    own.annotations.extend(more)
    own.content['categories'].insert(0, dict(id=0, name='things', supercategory='none'))
    cfg = own.config()
    before = cfg.to_dict()
    assert check_data(cfg, ['train', 'val', 'test']) == []
    assert cfg.to_dict() == before and not Path(cfg.work_dir).exists()


def turned(own: Own, orientation: int, size: tuple[int, int]) -> None:
    """Store picture 2 in that size, with an EXIF tag that turns it."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.new('RGB', size).save(own.root / 'pictures/2.jpg', exif=exif)


def test_sizes_are_those_of_the_picture_as_it_is_seen(own):
    turned(own, 6, (40, 60))
    assert own.check() == []
    turned(own, 6, (60, 40))
    with pytest.raises(
        ValueError,
        match=r'image 2 \(2\.jpg\) has 60 x 40 pixels there and 40 x 60 in the picture, turned as '
        r'its EXIF tag says \(width x height; 1 of 4 pictures opened\); accepted are',
    ):
        own.check()
    turned(own, 3, (60, 40))
    assert own.check() == []


def test_a_picture_that_cannot_be_read(own):
    (own.root / 'pictures/2.jpg').write_bytes(b'')
    assert own.check() == []  # the loader names it


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda own: (own.root / 'pictures/3.jpg').unlink(),
            r'own\.json lists 3\.jpg, and there is no .*/pictures/3\.jpg; accepted are names below '
            r'that folder, with /, alike to the letter \(1 of 4 missing\)',
        ),
        (
            lambda own: [(own.root / f'pictures/{i}.jpg').unlink() for i in range(1, 5)],
            r'lists 1\.jpg, .*; set train_dataloader\.dataset\.data_prefix\.img to the folder of '
            r'the images \(4 of 4 missing\)',
        ),
        (image(file_name='2.JPG'), r'lists 2\.JPG, .*; accepted are names .* alike to the letter'),
        (
            image(file_name='a\\2.jpg'),
            r'lists a\\2\.jpg, .* accepted are names .*, with /, alike to',
        ),
        (image(file_name='/mnt/other/2.jpg'), r'and there is no /mnt/other/2\.jpg; accepted are'),
    ],
)
def test_missing_pictures(own, change, message):
    change(own)
    with pytest.raises(FileNotFoundError, match=message):
        own.check()


def test_pictures_in_folders_and_by_absolute_paths(own):
    (own.root / 'pictures/sub').mkdir()
    (own.root / 'pictures/2.jpg').rename(own.root / 'pictures/sub/2.jpg')
    own.images[1]['file_name'] = 'sub/2.jpg'
    own.images[2]['file_name'] = str(own.root / 'pictures/3.jpg')
    assert own.check() == []


NOTES = {
    'narrow': (
        second(bbox=[2, 3, 0, 8]),
        r'1 of 6 annotations are narrower than a pixel \(training leaves these out\); the first is '
        r'2 of 3\.jpg$',
    ),
    'beyond': (
        second(bbox=[45, 6, 20, 10]),
        '1 of 6 annotations reach beyond their images by more',
    ),
    'no object': (every(category_id=7), "has no object of 'box'$"),
    'one name twice': (
        lambda own: own.images.append(dict(own.images[0], id=9)),
        r'lists 1 pictures under several ids \(the first is 1\.jpg\): what one entry marks is ba',
    ),
}


@pytest.mark.parametrize(('change', 'message'), NOTES.values(), ids=NOTES)
def test_taken_with_a_word(own, change, message):
    change(own)
    notes = own.check()
    assert any(re.search(message, note) for note in notes), notes
    assert all(note.startswith(f'{own.file}') for note in notes)


def test_where_boxes_alone_are_trained_no_outline_is_asked_for(own):
    every(segmentation=[])(own)
    del own.annotations[1]['segmentation']
    boxes = {
        'train_dataloader.dataset.pipeline': [dict(type='LoadAnnotations', with_bbox=True)],
        'val_dataloader.dataset.pipeline': [dict(type='LoadAnnotations', with_bbox=True)],
        'val_evaluator.metric': 'bbox',
    }
    assert check_data(own.config(**boxes), ['train', 'val']) == []
    with pytest.raises(ValueError, match=r'no segmentation|segmentation='):
        own.check('val', **boxes | {'val_evaluator.metric': ['bbox', 'segm']})


def test_a_class_that_is_not_asked_for_needs_no_outline(own):
    own.annotations[2].update(category_id=9, segmentation=[])
    own.content['categories'].append(dict(id=9, name='other'))
    assert own.check() == []


def field_away(name: str) -> Callable[[Own], None]:
    return lambda own: [each.pop(name) for each in own.annotations] and None


CROWD = 'iscrowd of 6 annotations is a number, 0 where there was none'
AREA = 'area of 6 annotations is that of the outline, or of the box'
REPAIRED = {
    'no iscrowd': (field_away('iscrowd'), CROWD),
    'iscrowd is null': (every(iscrowd=None), CROWD),
    'iscrowd in quotes': (every(iscrowd='0'), CROWD),
    'no area': (field_away('area'), AREA),
    'area is null': (every(area=None), AREA),
    'area is 0': (every(area=0), AREA),
    'area in quotes': (every(area='200'), AREA),
    'area is NaN': (every(area=float('nan')), AREA),
    'no id': (without(annotations='id'), 'id of 1 annotations is a number of its own'),
}


@pytest.mark.parametrize(('change', 'message'), REPAIRED.values(), ids=REPAIRED)
@pytest.mark.parametrize('split', ['train', 'val'])
def test_repaired_in_a_copy(own, change, message, split):
    sound = json.loads(json.dumps(own.content))
    change(own)
    cfg = own.config()
    before = own.file.read_bytes()
    notes = check_data(cfg, [split])
    copy = own.root / f'work/annotations/{split}_dataloader.dataset_own.json'
    assert notes == [f'{copy} is read in place of {own.file}: {message}']
    assert own.file.read_bytes() == before
    repaired = json.loads(copy.read_text())
    if 'id' not in own.annotations[1]:
        assert repaired['annotations'][1].pop('id') == 7
        sound['annotations'][1].pop('id')
    assert repaired == sound
    assert cfg[f'{split}_dataloader'].dataset.ann_file == str(copy)
    assert cfg.val_evaluator.ann_file == str(copy if split == 'val' else own.file)
    assert cfg.test_evaluator.ann_file == str(own.file)
    assert check_data(cfg, [split]) == []


def test_ids_that_the_evaluation_cannot_use(own):
    """It takes object 0 for none, and cannot store words."""
    own.annotations[0]['id'], own.annotations[1]['id'] = 0, 'two'
    assert 'id of 2 annotations is a number of its own' in own.check('val')[0]


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_other_encodings(own, encoding):
    own.annotations[0]['segmentation'].append([1.5, 2, 3, 4.25, 5, 6])
    own.annotations[0]['bbox'] = [0, 0, 24, 14]
    cfg = own.config(encoding)
    assert 'it is plain UTF-8' in check_data(cfg, ['val'])[0]
    assert json.loads(Path(cfg.val_evaluator.ann_file).read_bytes()) == own.content


def test_areas_of_all_kinds_of_outlines(own):
    from pycocotools import mask

    field_away('area')(own)
    field_away('iscrowd')(own)
    diagonal = np.eye(40, 60, dtype=np.uint8, order='F')
    outlines = [
        [[0, 0, 20, 0, 20, 10], [20, 0, 24, 0, 24, 10, 20, 10]],
        RLE,
        dict(
            size=[40, 60],
            counts=mask.encode(diagonal)['counts'].decode(),
        ),
        [[1, 1, 5, 5, 9, 9]],
    ]
    for each, outline in zip(own.annotations, outlines, strict=False):
        each.update(segmentation=outline, bbox=[0, 0, 60, 40])
    cfg = own.config()
    check_data(cfg, ['train'])
    entries = json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text())['annotations']
    assert [each['area'] for each in entries] == [140, 1200, 40, 2400, 200, 200]


def test_a_repaired_file_trains_and_is_evaluated(own):
    """mmdet's own reader and COCOeval take the copy; neither takes the file as it was."""
    from mmdet.datasets.api_wrappers import COCO, COCOeval

    field_away('area')(own)
    field_away('iscrowd')(own)
    own.annotations[0]['id'] = 0
    cfg = own.config()
    check_data(cfg, ['train', 'val'])
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert len(dataset[0]['data_samples'].gt_instances.masks) == 1
    truth = COCO(cfg.val_evaluator.ann_file)
    found = [
        dict(image_id=each['image_id'], category_id=each['category_id'], score=0.9)
        | dict(bbox=each['bbox'], segmentation=truth.annToRLE(each))
        for each in truth.loadAnns(truth.getAnnIds())
    ]
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    with pytest.raises(KeyError):
        raw = COCO(str(own.file))
        COCOeval(raw, raw.loadRes(found), 'bbox').evaluate()


def test_super_categories_of_roboflow(own):
    own.content['categories'].insert(0, dict(id=0, name='box', supercategory='none'))
    with pytest.raises(
        ValueError,
        match=r"own\.json: 2 categories have the name 'box' \(ids 0, 3\); the one with id 0 is a "
        r"super-category without annotations, as in exports of Roboflow: take it out of 'cate",
    ):
        own.check()
    own.annotations[0]['category_id'] = 0
    with pytest.raises(ValueError, match=r'\(ids 0, 3\); give each a name and an id of its own'):
        own.check()
    own.annotations[0]['category_id'] = 3
    own.content['categories'][0]['name'] = 'things'
    cfg = own.config()
    assert check_data(cfg, ['train']) == []
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.cat2label == {3: 0, 7: 1} and dataset.metainfo['classes'] == CLASSES


def test_the_evaluator_reads_the_same_file_by_another_path(own):
    (own.root / 'link.json').symlink_to(own.file)
    (own.root / 'sub').mkdir()
    for path in ('link.json', 'sub/../own.json'):
        assert own.check('val', **{'val_evaluator.ann_file': str(own.root / path)}) == []
    (own.root / 'copy.json').write_text('{}')
    with pytest.raises(
        ValueError, match=r'val_evaluator\.ann_file is .*copy\.json, but val_datalo'
    ):
        own.check('val', **{'val_evaluator.ann_file': str(own.root / 'copy.json')})


@pytest.mark.parametrize('place', ['dataset', 'datasets', 'both'])
def test_a_repair_reaches_datasets_in_wrappers_and_every_evaluator(own, place):
    field_away('area')(own)
    cfg = own.config()
    inner = cfg.val_dataloader.dataset
    if place != 'dataset':
        inner = dict(type='ConcatDataset', datasets=[inner])
    if place != 'datasets':
        inner = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg.val_dataloader.dataset = inner
    cfg.val_evaluator = [cfg.val_evaluator, dict(cfg.val_evaluator, metric='bbox'), dict(type='X')]
    notes = check_data(cfg, ['val'])
    copy = notes[0].partition(' ')[0]
    assert copy in str(cfg.val_dataloader) and 'own.json' in copy and Path(copy).is_file()
    assert [each.get('ann_file') for each in cfg.val_evaluator] == [copy, copy, None]


def test_several_sets_with_their_own_evaluators(own):
    cfg = own.config()
    other = own.root / 'other.json'
    field_away('area')(own)
    other.write_text(json.dumps(own.content))
    first = cfg.val_dataloader.dataset
    second = first.copy()
    second.ann_file = 'other.json'
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
    metrics = [cfg.val_evaluator, dict(cfg.val_evaluator, ann_file=str(other))]
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes='ab')
    copy = check_data(cfg, ['val'])[0].partition(' ')[0]
    assert [each['ann_file'] for each in cfg.val_evaluator.metrics] == [str(own.file), copy]
    assert [each['ann_file'] for each in cfg.val_dataloader.dataset.datasets] == ['own.json', copy]


def test_a_set_without_objects_beside_another(own):
    own.annotations[:] = [dict(each, iscrowd=1) for each in own.annotations]
    cfg = own.config()
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.train_dataloader.dataset]
    )
    assert "has no object of 'box', 'disc'" in check_data(cfg, ['train'])[0]


def test_predictions_alone_need_no_annotations(own):
    del own.content['annotations']
    with pytest.raises(ValueError, match=r"'annotations' is not there; accepted is a list"):
        own.check('test')
    only = {'test_evaluator.format_only': True, 'test_evaluator.outfile_prefix': 'out'}
    assert own.check('test', **only) == []


def test_without_check_files_names_alone_are_read(own):
    second(category_id=99, bbox=None)(own)
    (own.root / 'pictures/1.jpg').unlink()
    assert own.check(check_files=False) == []
    own.content['categories'][0]['name'] = 'other'
    with pytest.raises(
        ValueError, match=r"asks for the categories 'box', which .*own\.json does not"
    ):
        own.check(check_files=False)


def test_formats_of_their_own_are_left_to_their_readers(own):
    for each in own.images:
        each['coco_url'] = f'http://images/pictures/{each.pop("file_name")}'
    field_away('iscrowd')(own)
    assert own.check(**{'train_dataloader.dataset.type': 'LVISV1Dataset'}) == []


def test_large_files_are_looked_at_in_part(own, monkeypatch):
    """Sound outlines are not read as numbers; those that are not are found wherever they stand."""
    own.annotations.extend(entry(i, 1 + i % 4, 3, 2, 3) for i in range(7, 5000))
    own.annotations[4001]['segmentation'] = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3]]
    with pytest.raises(
        ValueError, match=r'annotation 4002 of 3\.jpg has segmentation=\[\[1, 2, .*3\]\]'
    ):
        own.check()
    own.annotations[4001]['segmentation'][1] = [1, 2, 3, 4, float('nan'), 6]
    with pytest.raises(
        ValueError, match=r'annotation 4002 of 3\.jpg has segmentation=.* nan, 6\]\]'
    ):
        own.check()
    own.annotations[4001]['segmentation'] = [[1, 2, 3, 4, 5, 6, 7, 8]]
    own.annotations[1].pop('area')
    cfg = own.config()
    check_data(cfg, ['train'])
    repaired = json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text())
    assert repaired['annotations'][4001] == own.annotations[4001]
    monkeypatch.setattr('mirl_mm.engine.checks.coco_images.some_of', lambda images: images[:3])
    own.annotations[1]['area'] = 200
    assert own.check() == [f'{own.file}: the sizes of 3 of 4 pictures were compared']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r'is empty; accepted are COCO annotations'),
        ('{"images": []}', r"has no 'categories'; accepted are COCO annotations"),
        ('{"categories": [{"id": 1, "na', r'is no valid JSON: Unterminated string .*char 26'),
        (
            '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]',
            r'holds a list \(detections\?\); acc',
        ),
        ('7', 'holds a int'),
        ('{"a": [{"segmentation": [[1,2,3,4,5,6]]}, x]}', r'is no valid JSON: Expecting .*char 42'),
        ('\xff\xfe{', 'is no valid JSON'),
    ],
)
def test_a_file_that_is_no_annotations(own, text, message):
    cfg = own.config()
    own.file.write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ['train'])


def test_packed_outlines_are_read_as_pycocotools_reads_them():
    mask, rng = pytest.importorskip('pycocotools.mask'), np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):
        pixels = np.asfortranarray(rng.random((70, 90)) < share, np.uint8)
        pixels[10:50, 20:60] = share > 0
        counts = _unpacked(mask.encode(pixels)['counts'].decode())
        assert (sum(counts), sum(counts[1::2])) == (pixels.size, pixels.sum())
