import hashlib
import json
import os
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import tifffile
from PIL import Image

from mirl_mm.demo import scene_set, scenes
from mirl_mm.demo.scene_set import write_bands, write_scenes
from mirl_mm.demo.scenes import CLASSES, LABELLED, MASK_PALETTE, draw_scene, with_bands

COUNTS = {'train': 6, 'val': 3}
SMALL = {'num_train': 6, 'num_val': 3, 'size': 64}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('demo') / 'scenes', **SMALL)


def files(root):
    return sorted(path for path in root.rglob('*') if path.is_file())


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files(root)
    }


def test_layout(written):
    expected = ['annotations/instances_train.json', 'annotations/instances_val.json', 'scenes.json']
    for split, count in COUNTS.items():
        for number in range(1, count + 1):
            expected.append(f'images/{split}/{number:06d}.jpg')
            expected.append(f'masks/{split}/{number:06d}.png')
    assert sorted(digests(written.root)) == sorted(expected)
    assert [path.name for path in written.root.parent.iterdir()] == ['scenes']
    with Image.open(written.images('val') / '000003.jpg') as image:
        assert (image.size, image.mode) == ((64, 64), 'RGB')
    with Image.open(written.masks('val') / '000003.png') as mask:
        assert (mask.size, mask.mode) == ((64, 64), 'P')
        assert mask.getpalette()[: 3 * len(MASK_PALETTE)] == np.ravel(MASK_PALETTE).tolist()
    assert len(set(MASK_PALETTE)) == len(MASK_PALETTE) == len(CLASSES) + 1


def test_same_seed_same_bytes_other_seed_other_bytes(written, tmp_path):
    first = digests(written.root)
    assert digests(write_scenes(tmp_path / 'again', **SMALL).root) == first
    other = digests(write_scenes(tmp_path / 'other', **SMALL, seed=1).root)
    assert not {first[name] for name in first} & set(other.values())
    assert len(set(first.values())) == len(first)  # no two scenes of a set are equal, val included


def test_a_scene_depends_on_its_own_number_alone(written):
    for split in LABELLED:
        for index in (2, 0):
            scene = draw_scene(split, index, 64)
            with Image.open(written.masks(split) / f'{index + 1:06d}.png') as mask:
                drawn = sum((i + 1) * m for i, m in zip(scene.labels, scene.masks, strict=True))
                np.testing.assert_array_equal(np.asarray(mask), drawn)
            with Image.open(written.images(split) / f'{index + 1:06d}.jpg') as image:
                error = np.abs(np.asarray(image, float) - scene.image)
                assert error.mean() < 3  # JPEG
    assert draw_scene('train', 0, 64).labels.tolist() == [1, 1, 1]
    assert draw_scene('val', 0, 64).labels.tolist() == [2, 0]


def test_train_and_val_share_no_pixel_of_any_picture():
    names = [*scenes.PHOTOGRAPHS, *set(scenes.MATERIALS.values())]
    assert len(names) == len(set(names)) == 10
    for name in names:
        train, val = (scenes._region(name, split) for split in LABELLED)
        with (scenes.importlib.resources.files('skimage') / 'data' / name).open('rb') as file:
            whole = np.asarray(Image.open(file))
        np.testing.assert_array_equal(np.concatenate([val, train], axis=1), whole)
        share = 1 / 3 if name in scenes.PHOTOGRAPHS else 1 / 2
        assert abs(val.width - share * whole.shape[1]) < 1


def test_a_class_is_a_shape_of_a_material_and_known_by_no_colour():
    assert tuple(scenes.MATERIALS) == CLASSES == tuple(scenes.OUTLINES)
    colours = {name: [] for name in CLASSES}
    for index in range(60):
        scene = draw_scene('train', index, 64)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            colours[CLASSES[label]].append(scene.image[mask].mean(axis=0))
    means = {name: np.mean(each, axis=0) for name, each in colours.items()}
    for one, other in combinations(CLASSES, 2):
        within = np.std(colours[one], axis=0)
        assert (abs(means[one] - means[other]) < within).all()


def test_objects_show_enough_and_never_overlap():
    seen = Counter()
    for seed in range(60):
        objects, masks = scenes._place(np.random.default_rng(seed), 64)
        assert 1 <= len(objects) <= 3
        assert masks.sum(axis=0).max() == 1
        np.testing.assert_array_equal(
            masks[0], objects[0].coverage >= 0.5
        )  # the front one is whole
        covered = np.any([thing.coverage >= 0.5 for thing in objects], axis=0)
        np.testing.assert_array_equal(masks.any(axis=0), covered)
        for thing, mask in zip(objects, masks, strict=True):
            assert mask.sum() >= 0.6 * scenes._area(thing.corners)
        seen.update(thing.label for thing in objects)
    assert set(seen) == set(range(len(CLASSES)))
    assert min(seen.values()) > 0.5 * max(seen.values())


@pytest.mark.parametrize(
    'name, area',
    [
        ('disc', 32 * np.sin(np.pi / 32)),  # of the 64-cornered one
        ('cross', 4 * 0.6 - 0.6**2),
        ('triangle', 0.75 * 3**0.5 * 1.15**2),
    ],
)
def test_coverage_has_the_area_of_the_outline(name, area):
    corners = 20 * scenes.OUTLINES[name] + 32
    assert scenes._area(corners) == pytest.approx(400 * area)
    coverage = scenes._coverage(corners, 64)
    assert coverage.sum() == pytest.approx(400 * area, rel=0.04)
    assert coverage[32, 32] == 1


def test_painting_lights_one_side_and_shades_the_other():
    corners = 12 * scenes.OUTLINES['disc'] + 32
    coverage = scenes._coverage(corners, 64)
    disc = scenes._Object(0, 12.0, np.array([32.0, 32.0]), 0.0, corners, coverage)
    white = np.ones((64, 64, 3))
    from_left, from_right = (
        scenes._paint(np.random.default_rng(0), white, disc, np.array([x, 0.0]), 'val')
        for x in (-1.0, 1.0)
    )
    np.testing.assert_array_equal(from_right[:8], 1)  # what is far away stays as it was
    np.testing.assert_array_equal(from_right[:, 60:], 1)
    assert from_right[32, 18].max() < 0.8 < from_right[32, 46].min()  # the shadow falls to the left
    left, right = np.s_[26:38, 21:26], np.s_[26:38, 38:43]
    assert from_right[right].mean() > 1.3 * from_left[right].mean()  # of one texture
    assert from_left[left].mean() > 1.3 * from_right[left].mean()
    assert from_right[coverage == 1].std(axis=0).min() > 0.05


def test_run_lengths_go_down_the_columns_and_start_with_zeros():
    mask = np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert scene_set._run_lengths(mask) == {'size': [2, 3], 'counts': [0, 2, 1, 1, 2]}
    assert scene_set._run_lengths(~mask) == {'size': [2, 3], 'counts': [2, 1, 1, 2]}
    box = np.zeros((6, 8), bool)
    box[1:4, 5:7] = True
    assert scene_set._instance(box, 2) == {
        'category_id': 3,
        'bbox': [5, 1, 2, 3],
        'area': 6,
        'iscrowd': 0,
        'segmentation': {'size': [6, 8], 'counts': [31, 3, 3, 3, 8]},
    }


@pytest.mark.parametrize('split', LABELLED)
def test_coco_agrees_with_the_masks(written, split):
    coco_api = pytest.importorskip('pycocotools.coco')
    rle_api = pytest.importorskip('pycocotools.mask')
    coco = coco_api.COCO(written.annotations(split))
    assert [c['name'] for c in coco.loadCats(range(1, 4))] == list(CLASSES)
    assert coco.getImgIds() == list(range(1, COUNTS[split] + 1))
    for image in coco.imgs.values():
        with Image.open(written.images(split) / image['file_name']) as picture:
            assert picture.size == (image['width'], image['height'])
        with Image.open(written.masks(split) / f'{image["id"]:06d}.png') as file:
            classes = np.asarray(file)
        annotations = coco.loadAnns(coco.getAnnIds(image['id'], iscrowd=False))
        assert len(annotations) >= 1
        decoded = np.zeros_like(classes)
        for annotation in annotations:
            mask = coco.annToMask(annotation)
            assert annotation['area'] == mask.sum() == rle_api.area(coco.annToRLE(annotation))
            assert annotation['bbox'] == rle_api.toBbox(coco.annToRLE(annotation)).tolist()
            assert decoded[mask == 1].max() == 0
            decoded += annotation['category_id'] * mask
        np.testing.assert_array_equal(decoded, classes)


def test_unlabelled_scenes_are_others_of_the_pixels_that_train_has(tmp_path, written):
    with_more = write_scenes(tmp_path / 'scenes', **SMALL, num_unlabelled=3)
    assert [file.name for file in files(with_more.images('unlabelled'))] == [
        f'{number:06d}.jpg' for number in (1, 2, 3)
    ]
    after, before = digests(with_more.root), digests(written.root)
    new = {name for name in after if name.startswith('images/unlabelled/')}
    assert len({after[name] for name in new} - set(before.values())) == 3
    labels = {name for name in before if name != 'scenes.json'}
    assert {name: after[name] for name in labels} == {name: before[name] for name in labels}
    names = [*scenes.PHOTOGRAPHS, *scenes.MATERIALS.values()]
    for name in names:
        train, unlabelled = (np.asarray(scenes._region(name, s)) for s in ('train', 'unlabelled'))
        np.testing.assert_array_equal(train, unlabelled)
    (with_more.images('unlabelled') / '000002.jpg').unlink()
    write_scenes(with_more.root, **SMALL, num_unlabelled=3)
    assert digests(with_more.root) == after


def test_perfect_detections_score_one(written):
    coco_api = pytest.importorskip('pycocotools.coco')
    evaluation = pytest.importorskip('pycocotools.cocoeval')
    coco = coco_api.COCO(written.annotations('train'))
    for kind in ('bbox', 'segm'):
        results = []
        for annotation in coco.anns.values():
            result = {'image_id': annotation['image_id'], 'category_id': annotation['category_id']}
            if kind == 'bbox':
                result['bbox'] = annotation['bbox']
            else:
                result['segmentation'] = coco.annToRLE(annotation)
            results.append(result | {'score': 1.0})
        evaluator = evaluation.COCOeval(coco, coco.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        assert evaluator.stats[0] == pytest.approx(1.0)


def test_second_call_touches_nothing(written, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in files(written.root)}
    monkeypatch.setattr(scene_set, 'draw_scene', None)
    assert write_scenes(str(written.root), **SMALL) == written
    assert {path: path.stat().st_mtime_ns for path in files(written.root)} == before


@pytest.mark.parametrize(
    'damage',
    ['masks/train/000002.png', 'images/val/000001.jpg', 'annotations/instances_val.json', None],
)
def test_a_damaged_set_is_repaired(tmp_path, damage):
    arguments = {'num_train': 2, 'num_val': 1, 'size': 64}
    root = write_scenes(tmp_path / 'scenes', **arguments).root
    whole = digests(root)
    if damage:
        (root / damage).unlink()
    else:
        (root / 'scenes.json').write_text('{"num_tr')
    write_scenes(root, **arguments)
    assert digests(root) == whole
    assert os.listdir(tmp_path) == ['scenes']


def test_other_parameters_replace_the_set(tmp_path):
    first = write_scenes(tmp_path, num_train=2, num_val=2, size=64)  # an empty folder is accepted
    before = digests(first.root)
    write_scenes(tmp_path, num_train=3, num_val=1, size=64)
    after = digests(first.root)
    assert set(after) - set(before) == {'images/train/000003.jpg', 'masks/train/000003.png'}
    assert set(before) - set(after) == {'images/val/000002.jpg', 'masks/val/000002.png'}
    assert after['images/train/000002.jpg'] == before['images/train/000002.jpg']
    assert json.loads((tmp_path / 'scenes.json').read_text())['num_train'] == 3


@pytest.mark.parametrize('existing', [False, True])
def test_an_interrupted_run_leaves_nothing_half_made(tmp_path, monkeypatch, existing):
    root = tmp_path / 'scenes'
    if existing:
        write_scenes(root, num_train=1, num_val=1, size=64)
    before = digests(root)

    def interrupted(split, index, size, seed):
        if (split, index) == ('val', 0):
            raise KeyboardInterrupt
        return draw_scene(split, index, size, seed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scene_set, 'draw_scene', interrupted)
        write_scenes(root, num_train=2, num_val=1, size=64)
    assert digests(root) == before
    assert os.listdir(tmp_path) == (['scenes'] if existing else [])
    write_scenes(root, num_train=2, num_val=1, size=64)
    assert len(files(root)) == 2 * 3 + 3


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'num_train': 0}, 'num_train is 0; accepted is a whole number from 1 on'),
        ({'num_val': -2}, 'num_val is -2; accepted is a whole number from 1 on'),
        ({'num_val': 2.5}, 'num_val is 2.5; accepted is a whole number from 1 on'),
        ({'size': 63}, 'size is 63; accepted is a whole number from 64 on'),
        ({'seed': -1}, 'seed is -1; accepted is a whole number from 0 on'),
        ({'num_unlabelled': -1}, 'num_unlabelled is -1; accepted is a whole number from 0 on'),
    ],
)
def test_bad_numbers(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_scenes(tmp_path / 'scenes', **arguments)
    assert not os.listdir(tmp_path)


def test_out_dir_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for out_dir in (tmp_path / 'file', tmp_path / 'file' / 'scenes'):
        with pytest.raises(ValueError, match=r'out_dir .*file.* cannot be written .*accepted is'):
            write_scenes(out_dir)
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_parent_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match=r'cannot be written .*Permission denied'):
        write_scenes(tmp_path / 'scenes')
    tmp_path.chmod(0o755)


@pytest.mark.parametrize('kept', ['thesis.tex', 'images/holiday.jpg'])
def test_a_folder_with_other_things_is_not_replaced(tmp_path, kept):
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    (tmp_path / kept).write_text('mine')
    with pytest.raises(ValueError, match=f"holds .'{kept.split('/')[0]}'.*accepted is a new or"):
        write_scenes(tmp_path)
    assert files(tmp_path) == [tmp_path / kept]


def test_bands_tell_what_is_near_and_what_is_dark():
    scene = draw_scene('train', 3, size=64)
    bands = with_bands(scene)
    assert bands.shape == (64, 64, 5) and bands.dtype == np.uint16
    assert (bands[..., :3] == scene.image.astype(np.uint16) * 257).all()
    near = bands[..., 3].astype(int)
    levels = [np.unique(near[mask]).tolist() for mask in scene.masks]
    assert all(len(level) == 1 for level in levels)
    assert len(levels) > 1 and levels == sorted(levels, reverse=True)
    ground = ~scene.masks.any(axis=0)
    assert near[ground].max() < min(levels)[0]
    assert (np.diff(np.where(ground, near, -1).max(axis=1)) > 0).mean() > 0.9
    light = scene.image.mean(axis=2).ravel()
    assert np.corrcoef(light, bands[..., 4].ravel())[0, 1] < -0.7


def test_bands_lie_beside_the_images(tmp_path):
    written = write_scenes(tmp_path / 'scenes', **SMALL)
    before = digests(written.root)
    folder = write_bands(written)
    after = digests(written.root)
    new = {name for name in after if name.startswith('bands/')}
    assert {name: after[name] for name in after.keys() - new} == before
    assert len(new) == sum(COUNTS.values())
    scene = draw_scene('val', 2, size=64)
    assert (tifffile.imread(folder / 'val/000003.tif') == with_bands(scene)).all()
    assert write_scenes(written.root, **SMALL) == written  # which stays as it is
    assert digests(written.root) == after
