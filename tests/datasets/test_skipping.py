import copy
import logging
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import DataLoader

from mirl_mm.datasets import LoadAnyImage, LoadRandomResizedCrop, SkipUnreadable, UnlabelledImages
from mirl_mm.errors import BadImagesError, UserError

LOAD = [LoadAnyImage()]


@pytest.fixture
def folder(tmp_path):
    """Six images 0.png .. 5.png; image i has i in every pixel."""
    for i in range(6):
        Image.new('RGB', (8, 8), (i, i, i)).save(tmp_path / f'{i}.png')
    return tmp_path


def values(dataset) -> list[int]:
    return [int(dataset[i]['img'][0, 0, 0]) for i in range(len(dataset))]


def spoil(path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.fixture
def log(caplog):
    """Records of mmengine's logger, which does not hand them on by itself."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    logger.removeHandler(caplog.handler)


def test_bad_images_are_replaced_counted_once_and_named(folder, log):
    spoil(folder / '1.png')
    spoil(folder / '2.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD)
    assert values(dataset) == [0, 3, 3, 3, 4, 5]
    assert values(dataset) == [0, 3, 3, 3, 4, 5]  # known now, and not read again
    assert len(log()) == 2
    assert '1.png' in log()[0] and 'unreadable image 1, at most 100' in log()[0]
    assert '2.png' in log()[1] and 'unreadable image 2' in log()[1]


@pytest.mark.parametrize(
    'load', [LoadAnyImage(), LoadRandomResizedCrop(8)], ids=['whole', 'cropped']
)
def test_the_log_and_the_list_name_a_file_once(folder, log, tmp_path, load):
    (folder / '1.png').write_bytes(b'')
    (folder / '3.png').write_bytes(b'<html>')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=[load])
    dataset.list_bad_images(tmp_path / 'bad.txt')
    (folder / '5.png').unlink()
    for i in range(6):
        dataset[i]
    reasons = {
        '1.png': 'UnidentifiedImageError: the file is empty',
        '3.png': 'UnidentifiedImageError: no image in a format that Pillow reads',
        '5.png': 'FileNotFoundError: [Errno 2] No such file or directory',
    }
    assert log() == [
        f'unreadable image {n}, at most 100 are skipped: {folder}/{name} ({reason})'
        for n, (name, reason) in enumerate(reasons.items(), 1)
    ]
    lines = (tmp_path / 'bad.txt').read_text().splitlines()
    assert lines == [f'{folder}/{name}\t{reason}' for name, reason in reasons.items()]


def test_the_last_image_is_replaced_by_the_first(folder):
    spoil(folder / '5.png')
    assert values(UnlabelledImages(data_root=str(folder), pipeline=LOAD)) == [0, 1, 2, 3, 4, 0]


def test_limit_names_the_last_ones(folder):
    for i in (0, 2, 4):
        spoil(folder / f'{i}.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD, max_bad_images=2)
    dataset[0], dataset[2]
    with pytest.raises(
        BadImagesError, match=r'3 images .*_bad_images=2; the last: .*4\.png.*2\.png'
    ):
        dataset[4]
    with pytest.raises(BadImagesError, match=r'1 images .*max_bad_images=0'):
        UnlabelledImages(data_root=str(folder), pipeline=LOAD, max_bad_images=0)[0]


def test_all_bad(folder):
    for i in range(6):
        spoil(folder / f'{i}.png')
    with pytest.raises(BadImagesError, match='none of the 6 images'):
        UnlabelledImages(data_root=str(folder), pipeline=LOAD)[3]


def test_count_holds_across_workers(folder):
    for i in (0, 1, 2, 3):
        spoil(folder / f'{i}.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD)
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=value_of_one)
    assert list(loader) == [4, 4, 4, 4, 4, 5]
    assert (dataset._bad > 0).tolist() == [True] * 4 + [False] * 2
    dataset.max_bad_images = 3  # what the workers found counts in this process
    spoil(folder / '5.png')
    with pytest.raises(BadImagesError, match='5 images cannot be read'):
        dataset[5]


def value_of_one(batch) -> int:
    return int(batch[0]['img'][0, 0, 0])


def test_count_holds_for_spawned_workers(folder):
    spoil(folder / '1.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD)
    received = pickle.loads(ForkingPickler.dumps(dataset))  # what a spawned worker is sent
    received[1]
    assert dataset._bad.tolist() == [0, 1, 0, 0, 0, 0]


def test_only_reading_may_fail(folder):
    def broken_augmentation(results):
        raise KeyError('not the image')

    dataset = UnlabelledImages(data_root=str(folder), pipeline=[*LOAD, broken_augmentation])
    with pytest.raises(KeyError, match='not the image'):
        dataset[0]
    assert dataset._bad.sum() == 0


def test_in_testing_a_bad_image_is_an_error(folder):
    spoil(folder / '1.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD, test_mode=True)
    assert dataset[2]['img'][0, 0, 0] == 2
    with pytest.raises(UserError, match=rf'cannot read the image {folder}/1\.png: '):
        dataset[1]


def test_copies_count_on_their_own(folder):
    spoil(folder / '1.png')
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD)
    other = copy.deepcopy(dataset)
    dataset[1]
    assert dataset._bad.tolist() == [0, 1, 0, 0, 0, 0] and other._bad.tolist() == [0] * 6
    assert other[1]['img'][0, 0, 0] == 2


def test_labelled_images_are_skipped_as_well(tmp_path):
    class Labelled(SkipUnreadable, CustomDataset):
        pass

    for i in range(4):
        path = tmp_path / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 8), (i, i, i)).save(path)
    spoil(tmp_path / 'a' / '0.png')
    init_default_scope('mmpretrain')
    dataset = Labelled(data_root=str(tmp_path), pipeline=LOAD, max_bad_images=1)
    assert values(dataset) == [2, 2, 1, 3] and dataset.bad_images() == [0]
    assert dataset[0]['gt_label'] == 0
