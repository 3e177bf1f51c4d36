"""``--data``: what it sets for every task, what wins over it, one line for all that is wrong."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.demo.scenes import MASK_CLASSES
from mirl_mm.engine import launch
from mirl_mm.engine.launch import load_config, training_config
from mirl_mm.engine.own_data import hold_out, use_data
from mirl_mm.errors import UserError
from tests.class_folders import write_classes
from tests.processes import run_forked

ROOT = Path(__file__).parents[2]
TASKS = {
    'pre-training': 'mirl/vit-test_2e',
    'classification': 'finetune/vit-test_2e_classes',
    'detection': 'mask-rcnn/vit-test_20it_scenes',
    'segmentation': 'upernet/vit-test_20it_scenes',
}
SHAPES = "('disc', 'cross', 'triangle')"
SCRATCH = {'model.backbone.init_cfg': None}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    """With a file of classes."""
    scenes = write_scenes(tmp_path_factory.mktemp('scenes') / 'set', 18, 2, size=64)
    (scenes.root / 'classes.txt').write_text('# of the masks\n' + '\n'.join(MASK_CLASSES) + '\n')
    return scenes


@pytest.fixture(scope='module')
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('folders') / 'set'
    for split in ('train', 'val'):
        write_classes(root / split, count=6)
    return root


def config_of(task: str) -> str:
    return str(ROOT / f'configs/{TASKS.get(task, task)}.py')


def trained(task: str, data: object, work_dir: Path, **options) -> tuple:
    """The config of a training on the data, and what --data says it set, the data being D."""
    options = options if TASKS.get(task, task).startswith(('mirl', 'mae')) else SCRATCH | options
    given = dict(data=str(data), cfg_options=options, work_dir=str(work_dir))
    cfg, notes = training_config(config_of(task), **given)
    notes = [note.removeprefix('--data sets ') for note in notes if note.startswith('--data')]
    return cfg, [note.replace(str(data), 'D').replace(str(work_dir), 'W') for note in notes]


def built(cfg: Config, split: str, scope: str = 'mmpretrain') -> BaseDataset:
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def coco(split: str, file: str, folder: str) -> str:
    dataset = f'.dataset.data_root=D .dataset.ann_file={file} .dataset.data_prefix.img={folder}'
    classes = f'.dataset.metainfo.classes={SHAPES}'
    return f'{split}_dataloader.dataset.type=CocoDataset {dataset} {classes}'


def test_pictures_in_train_and_val(scenes, tmp_path):
    """Those beside masks: the masks are none to learn from."""
    place = 'dataset.type=UnlabelledImages .dataset.data_root=D .dataset.data_prefix=images'
    cfg, told = trained('pre-training', scenes.root, tmp_path)
    assert told == [
        f'train_dataloader.{place}/train',
        f'val_dataloader.{place}/val',
        f'test_dataloader.{place}/val',
    ]
    assert len(built(cfg, 'train')) == 18
    assert len(built(cfg, 'test')) == 2


def test_pictures_in_one_folder_are_held_out_in_part(scenes, tmp_path):
    place = 'dataset.type=UnlabelledImages .dataset.data_root=D .dataset.data_prefix='
    cfg, told = trained('pre-training', scenes.images('train'), tmp_path)
    assert told == [
        f'train_dataloader.{place} .dataset.ann_file=W/pictures_train.txt',
        f'val_dataloader.{place} .dataset.ann_file=W/pictures_val.txt',
        f'test_dataloader.{place} .dataset.ann_file=W/pictures_val.txt',
    ]
    sets = [built(cfg, part) for part in ('train', 'val')]
    files = [
        {Path(images.get_data_info(i)['img_path']).name for i in range(len(images))}
        for images in sets
    ]
    assert [len(each) for each in files] == [10, 8]
    assert files[0] | files[1] == {path.name for path in scenes.images('train').iterdir()}
    before = (tmp_path / 'pictures_val.txt').read_text()
    hold_out(str(scenes.images('train')), tmp_path)
    assert (tmp_path / 'pictures_val.txt').read_text() == before


def test_a_list_and_a_method_without_validation(scenes, tmp_path):
    names = [f'images/train/{number:06d}.jpg' for number in range(1, 18)]
    (scenes.root / 'list.txt').write_text('\n'.join(names))
    cfg, _ = trained('pre-training', scenes.root / 'list.txt', tmp_path)
    sets = [built(cfg, part) for part in ('train', 'val')]
    assert [len(images) for images in sets] == [9, 8]
    cfg, told = trained('mae/vit-test_2e', scenes.root / 'list.txt', tmp_path)
    assert len(told) == 1
    assert len(built(cfg, 'train')) == 17
    cfg, told = trained('mae/vit-test_2e', scenes.images('train'), tmp_path)
    assert len(built(cfg, 'train')) == 18


def test_class_folders(folders, tmp_path):
    place = 'dataset.type=CustomDataset .dataset.data_root=D .dataset.data_prefix='
    numbers = 'model.data_preprocessor.num_classes=3 .head.num_classes=3'
    wanted = [
        f'train_dataloader.{place}train',
        f'val_dataloader.{place}val',
        'val_evaluator.topk=(1,)',
        f'test_dataloader.{place}val',
        'test_evaluator.topk=(1,)',
        numbers,
    ]
    for config in ('classification', 'linear/vit-test_4e_classes', 'finetune/vit-b48_60e_in1k'):
        cfg, told = trained(config, folders, tmp_path)
        assert told == wanted
        assert cfg.val_evaluator.topk == (1,)  # of 1 and 5 in the last one, which 3 classes lack
        assert built(cfg, 'val').metainfo['classes'] == ('blue', 'green', 'red')


def test_imagenet_elsewhere_keeps_its_names(tmp_path):
    names = ['n01440764', *(f'n1{number:07d}' for number in range(999))]
    for name in names:
        for split in ('train', 'val'):
            (tmp_path / 'in1k' / split / name).mkdir(parents=True)
    for config, kind in (('finetune/vit-b48_60e_in1k', 'ImageNet'), ('classification', 'Custom')):
        cfg = load_config(config_of(config))
        use_data(cfg, str(tmp_path / 'in1k'), None, ('train', 'val', 'test'))
        assert cfg.train_dataloader.dataset.type.startswith(kind)
        assert cfg.model.head.num_classes == 1000
        assert 5 in cfg.val_evaluator.topk or kind == 'Custom'


def test_a_coco_folder(scenes, tmp_path):
    files = [f'annotations/instances_{split}.json' for split in ('train', 'val')]
    wanted = [
        coco('train', files[0], 'images/train'),
        coco('val', files[1], 'images/val'),
        f'val_evaluator.ann_file=D/{files[1]}',
        coco('test', files[1], 'images/val'),
        f'test_evaluator.ann_file=D/{files[1]}',
    ]
    cfg, told = trained('detection', scenes.root, tmp_path)
    heads = 'model.roi_head.bbox_head.num_classes=3 .roi_head.mask_head.num_classes=3'
    assert told == [*wanted, heads]
    dataset = built(cfg, 'train', 'mmdet')
    assert str(tuple(dataset.metainfo['classes'])) == SHAPES
    assert 'palette' not in cfg.train_dataloader.dataset.metainfo  # that of the config's own
    assert len(dataset) == 18
    assert dataset[0]['inputs'].shape == (3, 64, 64)
    cfg, told = trained('mask-rcnn/vit-b48_cascade-lsj-100e_coco', scenes.root, tmp_path)
    assert told[:-1] == wanted
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [3, 3, 3]
    assert cfg.model.roi_head.mask_head.num_classes == 3


@pytest.fixture
def roboflow(scenes, tmp_path) -> Path:
    """Pictures and annotations side by side, in train/, valid/ and test/."""
    for split, name in (('train', 'train'), ('val', 'valid'), ('val', 'test')):
        shutil.copytree(scenes.images(split), tmp_path / 'flow' / name)
        target = tmp_path / f'flow/{name}/_annotations.coco.json'
        target.write_bytes(scenes.annotations(split).read_bytes())
    return tmp_path / 'flow'


def test_an_export_of_roboflow_with_a_test_set(roboflow, tmp_path):
    _, told = trained('detection', roboflow, tmp_path)
    assert told[0] == coco('train', 'train/_annotations.coco.json', 'train')
    assert told[1] == coco('val', 'valid/_annotations.coco.json', 'valid')
    assert told[3:5] == [
        coco('test', 'test/_annotations.coco.json', 'test'),
        'test_evaluator.ann_file=D/test/_annotations.coco.json',
    ]


def test_one_json_trains_without_validation(scenes, tmp_path):
    cfg, _ = trained('detection', scenes.annotations('train'), tmp_path)
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == str(scenes.root)
    assert (dataset.ann_file, dataset.data_prefix.img) == (
        'annotations/instances_train.json',
        'images/train',
    )
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None


def test_masks(scenes, tmp_path):
    named = f'.dataset.metainfo.classes={MASK_CLASSES}'
    parts = [
        f'{split}_dataloader.dataset.type=BaseSegDataset .dataset.data_root=D '
        f'.dataset.data_prefix.img_path=images/{part} '
        f'.dataset.data_prefix.seg_map_path=masks/{part} .dataset.img_suffix=.jpg '
        f'.dataset.seg_map_suffix=.png {named}'
        for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val'))
    ]
    heads = 'model.decode_head.num_classes=4 .auxiliary_head.num_classes=4'
    for config in ('segmentation', 'upernet/vit-b12_160k_ade20k-512'):
        cfg, told = trained(config, scenes.root, tmp_path)
        assert told == [*parts, heads]
    dataset = built(cfg, 'train', 'mmseg')  # of a config for ADE20K
    assert tuple(dataset.metainfo['classes']) == tuple(MASK_CLASSES)
    assert (len(dataset), dataset.reduce_zero_label) == (18, False)


def test_masks_as_those_of_ade20k_lie(scenes, tmp_path):
    for split, name in (('train', 'training'), ('val', 'validation')):
        shutil.copytree(scenes.images(split), tmp_path / 'ade/images' / name)
        shutil.copytree(scenes.masks(split), tmp_path / 'ade/annotations' / name)
    shutil.copy(scenes.root / 'classes.txt', tmp_path / 'ade')
    cfg, _ = trained('segmentation', tmp_path / 'ade', tmp_path)
    assert dict(cfg.val_dataloader.dataset.data_prefix) == dict(
        img_path='images/validation', seg_map_path='annotations/validation'
    )


def test_options_win(folders, scenes, tmp_path):
    given = {'model.head.num_classes': 3, 'train_dataloader.dataset.data_prefix': 'val'}
    cfg, told = trained('classification', folders, tmp_path, **given)
    assert cfg.train_dataloader.dataset.data_prefix == 'val'
    assert told[0] == 'train_dataloader.dataset.type=CustomDataset .dataset.data_root=D'
    assert told[-1] == 'model.data_preprocessor.num_classes=3'
    given = {
        'val_evaluator.metric': 'bbox',
        'val_dataloader.dataset.data_prefix.img': 'images/val/',
    }
    cfg, _ = trained('detection', scenes.root, tmp_path, **given)
    assert (cfg.val_evaluator.metric, cfg.val_dataloader.dataset.data_prefix.img) == (
        'bbox',
        'images/val/',
    )


def test_a_test_reads_its_split_alone(scenes, folders, tmp_path):
    """Here, the training's pictures are not on the machine."""
    root, checkpoint = tmp_path / 'set', tmp_path / 'some.pth'
    checkpoint.touch()
    for path in (scenes.images('val'), scenes.annotations('val').parent):
        shutil.copytree(path, root / path.relative_to(scenes.root))
    given = dict(work_dir=str(tmp_path), data=str(root))
    cfg, _ = launch.testing_config(config_of('detection'), str(checkpoint), **given)
    assert cfg.test_dataloader.dataset.data_prefix.img == 'images/val'
    assert cfg.train_dataloader.dataset.data_root == 'data/scenes/'  # as the config has it
    shutil.copytree(folders / 'val', tmp_path / 'classes/test')
    given['data'] = str(tmp_path / 'classes')
    cfg, _ = launch.testing_config(config_of('classification'), str(checkpoint), **given)
    assert cfg.test_dataloader.dataset.data_prefix == 'test'
    assert cfg.model.head.num_classes == 3


@pytest.fixture(scope='module')
def wrong(folders, scenes, tmp_path_factory) -> Path:
    """A folder of everything that some task does not take."""
    root = tmp_path_factory.mktemp('wrong')
    shutil.copytree(folders / 'train', root / 'classes')
    shutil.copytree(folders, root / 'folders')
    shutil.copytree(scenes.root, root / 'scenes')
    (root / 'scenes/classes.txt').unlink()
    shutil.copytree(scenes.images('val'), root / 'flat')
    (root / 'empty').mkdir()
    content = json.loads(scenes.annotations('val').read_text())
    for name, key in (('flat/no_categories', 'categories'), ('no_images', 'images')):
        (root / f'{name}.json').write_text(json.dumps(content | {key: []}))
    (root / 'alone.json').write_text(json.dumps(content))
    shutil.copy(next(scenes.images('val').iterdir()), root / 'photo.jpg')
    return root


CLASSES = 'classification takes pictures in train/<class>/ and val/<class>/'
BOXES = 'detection takes annotations/instances_{train,val}.json or'
PIXELS = 'segmentation takes images/train, masks/train, images/val, masks/val and classes.txt'


@pytest.mark.parametrize(
    ('task', 'data', 'message'),
    [
        ('pre-training', 'flta', "no such file or folder: D/flta (did you mean 'flat'?)"),
        ('pre-training', 'alone.json', 'D/alone.json is a file; pre-training takes a folder of '),
        ('pre-training', 'photo.jpg', 'D/photo.jpg is a picture; pre-training takes a folder of '),
        ('pre-training', 'empty', 'D/empty holds 0 pictures; needed are at least 16'),
        ('pre-training', 'flat', 'D/flat holds 2 pictures; needed are at least 16'),
        ('classification', 'classes', f'holds 3 class folders with 18 pictures; {CLASSES} (some'),
        ('classification', 'flat', f'D/flat holds 2 pictures; {CLASSES}'),
        ('classification', 'empty', f'D/empty holds 0 pictures; {CLASSES}'),
        ('classification', 'alone.json', f'D/alone.json is a file; {CLASSES}'),
        (
            'detection',
            'folders',
            f'D/folders holds 3 class folders with 36 pictures in train, val; {BOXES}',
        ),
        ('detection', 'empty', f'D/empty holds 0 pictures; {BOXES}'),
        (
            'detection',
            'flat/no_categories.json',
            "no_categories.json: 'categories' is []; accepted",
        ),
        ('detection', 'no_images.json', "D/no_images.json: 'images' is []; accepted is a list of"),
        (
            'detection',
            'alone.json',
            'D/alone.json names 000001.jpg, which is in none of D, D/alone',
        ),
        ('segmentation', 'scenes', 'no D/scenes/classes.txt: the names of values 0, 1, ... , one'),
        ('segmentation', 'flat', f'D/flat holds 2 pictures; {PIXELS}'),
        ('segmentation', 'alone.json', f'D/alone.json is a file; {PIXELS}'),
    ],
)
def test_what_a_task_does_not_take_is_one_line(wrong, tmp_path, task, data, message):
    with pytest.raises((UserError, FileNotFoundError)) as error:
        trained(task, wrong / data, tmp_path)
    said = str(error.value)
    assert message in said.replace(str(wrong), 'D')
    assert '\n' not in said


def test_two_datasets_are_not_guessed_at(folders, tmp_path):
    cfg = load_config(config_of('classification'))
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, one])
    with pytest.raises(UserError, match='train_dataloader has 2 datasets; accepted is one'):
        use_data(cfg, str(folders), None, ('train', 'val', 'test'))
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=one)
    use_data(cfg, str(folders), None, ('train', 'val', 'test'))
    assert cfg.train_dataloader.dataset.dataset.data_root == str(folders)


def test_a_users_commands(folders, tmp_path):
    """Trained and tested, with the head and the names of the folders in the checkpoint."""
    config, options = config_of('classification'), ['--cfg-options', 'model.backbone.init_cfg=None']
    given = ['--data', folders, '--work-dir', 'run', *options, 'train_cfg.max_epochs=1']
    (printed,) = run_forked('train.py', config, *given, cwd=tmp_path)
    assert 'model.data_preprocessor.num_classes=3 .head.num_classes=3' in printed
    checkpoint = tmp_path / 'run/epoch_1.pth'
    given = ['--data', folders, '--work-dir', 'tested', *options]
    (printed,) = run_forked('test.py', config, checkpoint, *given, cwd=tmp_path)
    assert 'accuracy/top1' in printed
