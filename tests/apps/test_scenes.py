"""Scenes for the segment probe: what folders and mmseg's configs come to, and what is refused."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mirl_mm.apps.scenes import meaning_of, read_scenes
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.demo.scenes import MASK_CLASSES
from mirl_mm.engine.launch import load_config
from mirl_mm.files import find_config
from mirl_mm.measure.features import RANDOM, load_encoder
from mirl_mm.measure.segment import _key as segment_key
from mirl_mm.measure.segment import load, load_classes


@pytest.fixture(scope='module')
def vit():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return load_encoder(load_config('mirl/vit-test_2e'), RANDOM)


def write(folder, kind, split, name, pixels):
    (folder / kind / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / kind / split / f'{name}.png')


@pytest.fixture
def root(tmp_path):
    """12 pictures of 40 x 60 px and 3 of 60 x 40, halves of two classes each."""
    for split, count, shape in (('train', 12, (40, 60)), ('val', 3, (60, 40))):
        for i in range(count):
            mask = np.zeros(shape)
            mask[:, shape[1] // 2 :] = 1 + i % 2
            write(tmp_path, 'images', split, f'{i:02}', np.full((*shape, 3), 10 * i))
            write(tmp_path, 'masks', split, f'{i:02}', mask)
    return tmp_path


def test_a_folder(root, vit):
    scenes = read_scenes(str(root), vit)
    assert [len(scenes.train), len(scenes.val)] == [12, 3] and scenes.classes == ['0', '1', '2']
    side, (patch, _) = min(vit.img_size), vit.patch_embed.projection.stride
    long = round(side * 1.5 / patch) * patch
    assert scenes.train[0].extent == (side, long) and scenes.val[0].extent == (long, side)
    assert scenes.common.tolist() == pytest.approx([0.5, 0.25, 0.25])
    image, classes = load(scenes.val[1])
    assert image.shape == (1, 3, long, side) and (image == 10).all()
    assert classes.shape == (1, long, side)
    assert classes[0, 0].tolist() == [0] * (side // 2) + [2] * (side // 2)
    assert read_scenes(str(root), vit, (patch, 2 * patch)).train[0].extent == (patch, 2 * patch)


def test_classes_by_name_and_what_is_absent(root, vit, capsys):
    (root / 'classes.txt').write_text('wall\nroad\ncar\nboat\n')
    write(root, 'masks', 'val', '01', np.zeros((60, 40)))
    scenes = read_scenes(str(root), vit)
    assert scenes.classes == ['wall', 'road', 'car', 'boat'] and scenes.common[3] == 0
    printed = ''.join(capsys.readouterr())
    assert "no mask for training has the class 'boat', which is then never found" in printed
    assert "for validation has the class 'car', 'boat', which the mean leaves out" in printed


def of_another_size(root):
    write(root, 'masks', 'val', '00', np.zeros((30, 40)))


def without_a_mask(root):
    (root / 'masks/train/03.png').unlink()


def beyond_the_classes(root):
    (root / 'classes.txt').write_text('wall\nroad\n')


def of_one_class(root):
    for file in (root / 'masks/train').iterdir():
        write(root, 'masks', 'train', file.stem, np.full((40, 60), 255))


def too_few(root):
    for i in range(5):
        (root / f'images/train/{i:02}.png').unlink()


def none_held_out(root):
    (root / 'images/val').rename(root / 'images/other')


def broken(root):
    (root / 'images/train/00.png').write_bytes(b'x')


@pytest.mark.parametrize(
    'fault, said',
    [
        (of_another_size, r'the mask \S+val/00.png has 40 x 30 pixels, its picture \S+ 40 x 60'),
        (
            without_a_mask,
            r'picture \S+images/train/03.png has no mask: there is no \S+masks/train/03.png',
        ),
        (beyond_the_classes, r'mask \S+01.png has the class 2; accepted are 0 to 1, for 2 classes'),
        (of_one_class, 'the training masks of .* have fewer than two classes'),
        (too_few, 'needs at least 10 training images, got 7'),
        (none_held_out, 'has no pictures with masks for val; accepted is a folder with images/'),
        (broken, r'cannot read the image \S+images/train/00.png'),
    ],
)
def test_what_is_refused(root, vit, fault, said):
    fault(root)
    with pytest.raises((ValueError, OSError), match=said) as error:
        read_scenes(str(root), vit)
    assert '\n' not in str(error.value)


def test_sizes_and_places_that_are_refused(root, vit):
    with pytest.raises(ValueError, match=r'scenes of 16 x 17 pixels .* no whole patches of \d+ x'):
        read_scenes(str(root), vit, (16, 17))
    with pytest.raises(FileNotFoundError, match='no such config file: nowhere'):
        read_scenes('nowhere', vit)
    with pytest.raises(ValueError, match='mirl/vit-test_2e is no config of mmseg'):
        read_scenes('mirl/vit-test_2e', vit)


SPLITS = 'train', 'val'
CONFIG = """
_base_ = '{base}'
_names = dict(_delete_=True, classes={classes})
_where = dict(data_root='{root}', metainfo=_names, reduce_zero_label={zero})
train_dataloader = dict(dataset=dict(**_where))
val_dataloader = dict(dataset=dict(**_where))
test_dataloader = val_dataloader
"""


def test_a_config_of_mmseg(tmp_path, vit):
    """The demo's scenes: the same as of their folder, or without the class 0."""
    root = write_scenes(tmp_path / 'set', 12, 2, size=64).root
    (root / 'classes.txt').write_text('\n'.join(MASK_CLASSES))
    of_folder = read_scenes(str(root), vit)
    base, found = find_config('upernet/vit-test_20it_scenes'), []
    for zero, classes in ((False, MASK_CLASSES), (True, MASK_CLASSES[1:])):
        file = tmp_path / f'zero_{zero}.py'
        settings = dict(base=base, root=root, classes=tuple(classes), zero=zero)
        file.write_text(CONFIG.format(**settings))
        found.append(read_scenes(str(file), vit))
    assert found[0][:3] == of_folder[:3] and found[0].common.equal(of_folder.common)
    assert found[1].classes == [*MASK_CLASSES[1:]]
    plain, reduced = (load_classes(scenes.val[0]) for scenes in found)
    assert len(plain.unique()) > 2
    assert reduced.equal((plain - 1).where(plain > 0, 255))


def test_a_config_of_mmseg_by_other_places(root, vit, tmp_path, monkeypatch):
    settings = dict(base=find_config('upernet/vit-test_20it_scenes'), zero=False)
    settings['classes'] = ('a', 'b', 'c')
    file, of_train = tmp_path / 'config.py', 'train_dataloader = dict(dataset=dict(data_root="{}"))'
    file.write_text(CONFIG.format(root=root, **settings))
    with pytest.raises(FileNotFoundError, match=r'^no image in \S+train ends in .\.jpg.; set '):
        read_scenes(str(file), vit)
    png = ''.join(f'{split}_dataloader["dataset"]["img_suffix"] = ".png"\n' for split in SPLITS)
    file.write_text(CONFIG.format(root=root, **settings) + png)
    named = read_scenes(str(file), vit)
    monkeypatch.chdir(root.parent)  # one place, and one cache, however it is named
    mixed = tmp_path / 'mixed.py'
    mixed.write_text(f'_base_ = "config.py"\n{of_train.format(root.name)}')
    assert segment_key(read_scenes(str(mixed), vit), [0]) == segment_key(named, [0])
    where = 'ann_file="list.txt"'
    mixed.write_text(f'_base_ = "config.py"\nval_dataloader = dict(dataset=dict({where}))')
    with pytest.raises(FileNotFoundError, match=r'^no list of images at \S+list.txt; set val_'):
        read_scenes(str(mixed), vit)
    where = 'data_prefix=dict(_delete_=True, img_path="images/val")'
    mixed.write_text(f'_base_ = "config.py"\nval_dataloader = dict(dataset=dict({where}))')
    said = r'^no folder None; set val_dataloader.dataset.data_root and data_prefix.seg_map_path$'
    with pytest.raises(FileNotFoundError, match=said):
        read_scenes(str(mixed), vit)


@pytest.mark.parametrize('zero', [False, True])
@pytest.mark.parametrize('renamed', [None, {0: 255, 1: 0, 2: 1, 5: 2}])
def test_values_of_masks_mean_what_mmseg_makes_of_them(tmp_path, zero, renamed):
    from mmseg.datasets.transforms import LoadAnnotations

    file = tmp_path / 'mask.png'
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file)
    given = dict(seg_map_path=str(file), reduce_zero_label=zero, label_map=renamed, seg_fields=[])
    wanted = LoadAnnotations()(given)['gt_seg_map'].ravel()
    assert list(meaning_of(zero, renamed)) == wanted.tolist()
