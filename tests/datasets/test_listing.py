import logging
import os
import time

import numpy as np
import pytest
from mmengine import fileio

from mirl_mm.datasets import UnlabelledImages
from mirl_mm.datasets import listing as file_list
from mirl_mm.datasets.listing import list_files, load, read_list


def accepts(name: str) -> bool:
    return name.lower().endswith(('.jpg', '.png'))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three folders, one inside another, that have not changed for a day."""
    monkeypatch.setattr(file_list, 'MIN_FILES', 1)
    for name in ('a/1.JPG', 'a/2.png', 'a/deep/é.png', 'b/3.png', 'b/n.txt', 'b/.h.png', '0.png'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'images' / 'b' / 'link.png').symlink_to(tmp_path / 'images' / '0.png')
    age(tmp_path / 'images')
    return tmp_path / 'images'


NAMES = ['0.png', 'a/1.JPG', 'a/2.png', 'a/deep/é.png', 'b/3.png', 'b/link.png']


def age(root, days: float = 1) -> None:
    then = time.time() - days * 86400
    for folder, _, _ in os.walk(root):
        os.utime(folder, (then, then))


@pytest.fixture
def reads(monkeypatch):
    """Names of the folders that are really read."""
    seen, real = [], file_list.read_folder

    def read_folder(path, accepts):
        seen.append(os.path.basename(path.rstrip('/')))
        return real(path, accepts)

    monkeypatch.setattr(file_list, 'read_folder', read_folder)
    return seen


def test_the_same_list_as_mmengine_makes(root):
    backend = fileio.get_file_backend(str(root))
    listed = sorted(backend.list_dir_or_file(str(root), list_dir=False, recursive=True))
    assert list_files(root, accepts) == [name for name in listed if accepts(name)] == NAMES


def test_the_second_time_no_folder_is_read(root, tmp_path, reads):
    cache = str(tmp_path / 'cache')
    assert list_files(root, accepts, 'k', cache) == NAMES
    assert sorted(reads) == ['a', 'b', 'deep', 'images']
    reads.clear()
    assert list_files(root, accepts, 'k', cache) == NAMES and reads == []
    list_files(root, accepts, 'other kind', cache)
    assert len(reads) == 4 and len(os.listdir(cache)) == 2
    list_files(root, accepts, 'k')  # without a cache
    assert len(reads) == 8


def test_only_changed_folders_are_read_again(root, tmp_path, reads):
    cache = str(tmp_path / 'cache')
    list_files(root, accepts, cache=cache)
    reads.clear()
    (root / 'a' / 'deep' / 'new.png').touch()
    (root / 'b' / '3.png').unlink()
    expected = sorted({*NAMES, 'a/deep/new.png'} - {'b/3.png'})
    assert list_files(root, accepts, cache=cache) == expected and sorted(reads) == ['b', 'deep']
    reads.clear()
    (root / 'b' / 'c').mkdir()
    (root / 'b' / 'c' / '4.png').touch()
    (root / 'a' / 'deep').rename(root / 'a' / 'deeper')
    expected = sorted(n.replace('deep', 'deeper') for n in [*expected, 'b/c/4.png'])
    assert list_files(root, accepts, cache=cache) == expected
    assert {'a', 'b', 'c'} <= set(reads) and 'images' not in reads


def test_a_folder_that_just_changed_is_not_trusted_yet(root, tmp_path, reads):
    """Its clock may be too coarse to tell the next change from this one."""
    cache = str(tmp_path / 'cache')
    (root / 'b' / '4.png').touch()
    list_files(root, accepts, cache=cache)
    moment = (root / 'b').stat().st_mtime_ns
    (root / 'b' / '5.png').touch()
    os.utime(root / 'b', ns=(moment, moment))
    assert 'b/5.png' in list_files(root, accepts, cache=cache)
    reads.clear()
    age(root / 'b')
    list_files(root, accepts, cache=cache)
    reads.clear()
    list_files(root, accepts, cache=cache)
    assert reads == []


def test_short_lists_are_not_remembered(root, tmp_path, monkeypatch):
    monkeypatch.setattr(file_list, 'MIN_FILES', len(NAMES) + 1)
    list_files(root, accepts, cache=str(tmp_path / 'cache'))
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('damage', ['cut', 'garbage', 'foreign'])
def test_a_damaged_memory_is_made_anew(root, tmp_path, reads, damage):
    cache = tmp_path / 'cache'
    list_files(root, accepts, cache=str(cache))
    (store,) = cache.iterdir()
    if damage == 'foreign':
        np.savez(store, something=np.zeros(3))
    else:
        whole = store.read_bytes()
        store.write_bytes(whole[: len(whole) // 2] if damage == 'cut' else b'garbage')
    assert load(store) == {}
    reads.clear()
    assert list_files(root, accepts, cache=str(cache)) == NAMES and len(reads) == 4
    assert len(load(store)) == 4


def test_a_cache_that_cannot_be_written_is_said_once_and_does_no_harm(root, tmp_path, caplog):
    (tmp_path / 'file').touch()
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        assert list_files(root, accepts, cache=str(tmp_path / 'file' / 'cache')) == NAMES
    finally:
        logger.removeHandler(caplog.handler)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert 'is not remembered' in record.getMessage() and 'list_cache' in record.getMessage()


def test_lists_with_labels_and_spaces(tmp_path):
    (tmp_path / 'l.txt').write_text('a.png 7\n\nb c.png\nb c.png 4\nnotes.txt 3\n')
    assert read_list(tmp_path / 'l.txt', accepts) == ['a.png', 'b c.png', 'b c.png']
    with pytest.raises(FileNotFoundError, match=r'no such list of images: .*x\.txt'):
        read_list(tmp_path / 'x.txt', accepts)


def test_the_dataset_remembers(root, tmp_path, reads):
    kwargs = dict(data_root=str(root), list_cache=str(tmp_path / 'cache'), extensions=('.png',))
    for _ in range(2):
        dataset = UnlabelledImages(**kwargs)
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        assert paths == [str(root / name) for name in NAMES if name.endswith('png')]
    assert len(reads) == 4
    UnlabelledImages(**(kwargs | dict(list_cache=None)))
    assert len(reads) == 8
