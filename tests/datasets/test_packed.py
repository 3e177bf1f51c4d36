import json
import os
import re
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmengine import fileio
from mmpretrain.datasets import CustomDataset
from PIL import Image
from torch.utils.data import DataLoader

from mirl_mm.datasets import LoadAnyImage, UnlabelledImages
from mirl_mm.datasets.packed import Packed, PackedBackend
from mirl_mm.datasets.packed import writing as packed_writing
from mirl_mm.datasets.packed.writing import pack_images, verify
from mirl_mm.errors import PackedError

ROOT = Path(__file__).parents[2]
SMALL = 4000  # bytes of a shard: a few images


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of six images; image i has i in every pixel."""
    for i in range(12):
        path = tmp_path / 'images' / ('cat', 'dög')[i % 2] / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, i, i)).save(path)
    (tmp_path / 'images' / 'top.jpeg').write_bytes(b'not an image')
    (tmp_path / 'images' / 'notes.txt').touch()
    return tmp_path / 'images'


@pytest.fixture
def packed(folder, tmp_path) -> Path:
    pack_images(folder, tmp_path / 'packed', shard_bytes=SMALL)
    return tmp_path / 'packed'


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_bit(shard: Path, offset: int) -> None:
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)


def test_every_file_comes_back_as_it_was(folder, packed):
    files = [path for path in folder.rglob('*') if path.suffix in ('.png', '.jpeg')]
    assert len(files) == 13
    for path in files:
        assert fileio.get(f'packed://{packed}/{path.relative_to(folder)}') == path.read_bytes()
    assert len(list(packed.glob('*.tar'))) == 5
    unpacked = packed.parent / 'unpacked'
    for shard in packed.glob('*.tar'):
        with tarfile.open(shard) as tar:
            tar.extractall(unpacked, filter='data')
    assert sorted(p.read_bytes() for p in unpacked.rglob('*.*')) == sorted(
        path.read_bytes() for path in files
    )
    assert verify(packed) == []


def test_mmengine_finds_it_by_the_path(packed):
    backend = fileio.get_file_backend(f'packed://{packed}', enable_singleton=True)
    assert isinstance(backend, PackedBackend)
    assert backend.isfile(f'packed://{packed}/cat/00.png')


def test_the_dataset_cannot_tell(folder, packed):
    pipeline = [LoadAnyImage()]
    plain = UnlabelledImages(data_root=str(folder), data_prefix='dög', pipeline=pipeline)
    ours = UnlabelledImages(data_root=f'packed://{packed}/', data_prefix='dög', pipeline=pipeline)
    assert len(ours) == len(plain) == 6
    for i in range(6):
        assert ours[i]['img'][0, 0, 0] == plain[i]['img'][0, 0, 0] == 2 * i + 1
        assert ours[i]['img_path'] == plain[i]['img_path'].replace(
            str(folder), f'packed://{packed}'
        )
    assert len(UnlabelledImages(data_root=f'packed://{packed}')) == 13


def test_a_list_of_files(packed, tmp_path):
    (tmp_path / 'list.txt').write_text('dög/03.png 1\ncat/00.png\n')
    ours = UnlabelledImages(
        data_root=f'packed://{packed}',
        ann_file=str(tmp_path / 'list.txt'),
        pipeline=[LoadAnyImage()],
    )
    assert [int(ours[i]['img'][0, 0, 0]) for i in range(2)] == [3, 0]


def test_class_folders_give_labels(packed):
    labelled = CustomDataset(data_root=f'packed://{packed}', pipeline=[LoadAnyImage()])
    assert labelled.CLASSES == ('cat', 'dög') and len(labelled) == 12
    assert all(labelled[i]['img'][0, 0, 0] % 2 == labelled[i]['gt_label'] for i in range(12))


def value_of_one(batch) -> int:
    return int(batch[0]['img'][0, 0, 0])


def test_workers_read_side_by_side(packed):
    dataset = UnlabelledImages(
        data_root=f'packed://{packed}', data_prefix='cat', pipeline=[LoadAnyImage()]
    )
    loader = DataLoader(dataset, num_workers=2, collate_fn=value_of_one)
    assert list(loader) == [0, 2, 4, 6, 8, 10]


def test_what_is_asked_of_a_file_backend(packed):
    root = f'packed://{packed}'
    backend = fileio.get_file_backend(root)
    assert backend.isdir(root) and backend.isdir(f'{root}/cat') and not backend.isdir(f'{root}/ca')
    assert backend.isfile(f'{root}/cat/00.png') and not backend.isfile(f'{root}/cat/00.pn')
    assert not backend.isfile(f'{root}/cat/00.png.and.a.longer.name.than.any')
    assert backend.exists(f'{root}/cat') and not backend.exists(f'{root}/cow')
    assert not backend.exists(f'packed://{packed.parent}/elsewhere')
    listed = backend.list_dir_or_file(root, recursive=False)
    assert sorted(listed) == ['cat', 'dög', 'top.jpeg']
    assert sorted(backend.list_dir_or_file(root, list_file=False, recursive=True)) == ['cat', 'dög']
    inside = [f'{i:02d}.png' for i in range(0, 12, 2)]
    assert list(backend.list_dir_or_file(f'{root}/cat', suffix='.png', list_dir=False)) == inside
    with pytest.raises(FileNotFoundError, match=r"no 'cat/99\.png' in the packed images"):
        backend.get(f'{root}/cat/99.png')
    with pytest.raises(FileNotFoundError, match=r'no packed images in .* or above it'):
        backend.get(f'packed://{packed.parent}/elsewhere/a.png')


def test_interrupted_and_repeated(folder, tmp_path, monkeypatch):
    target, real, seen = tmp_path / 'packed', packed_writing.read_back, []

    def power_cut(shard, part):
        seen.append(shard)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(shard, part)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packed_writing, 'read_back', power_cut)
        pack_images(folder, target, shard_bytes=SMALL)
    with pytest.raises(PackedError, match=r'was not finished: .*run tools/pack_images\.py again'):
        UnlabelledImages(data_root=f'packed://{target}')
    counted = []
    done = pack_images(folder, target, shard_bytes=SMALL, progress=counted.append)
    assert (done.images, done.shards, done.kept, sum(counted)) == (13, 5, 2, 13)
    straight = tmp_path / 'straight'
    pack_images(folder, straight, shard_bytes=SMALL)
    assert contents(target) == contents(straight)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert pack_images(folder, target, shard_bytes=SMALL).kept == 5
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    (target / '.shard-00005.tar.1.part').touch()  # what a killed process leaves
    assert pack_images(folder, target, shard_bytes=SMALL).kept == 5
    assert contents(target) == contents(straight)


def test_changed_sources_are_packed_anew(folder, packed):
    (folder / 'cat' / '00.png').unlink()
    Image.new('RGB', (9, 9), (99, 99, 99)).save(folder / 'dög' / '11.png')
    pack_images(folder, packed, shard_bytes=SMALL)
    index = Packed(packed)
    assert len(index.index) == 12 and index.find('cat/00.png') is None
    assert index.read(index.find('dög/11.png')) == (folder / 'dög' / '11.png').read_bytes()
    names = [folder / 'cat' / '02.png']
    done = pack_images(folder, packed, [str(names[0].relative_to(folder))], shard_bytes=SMALL)
    assert done.shards == 1 and len(list(packed.glob('shard-*.tar'))) == 1


def test_a_corrupt_shard_is_named(packed, tmp_path, folder):
    index = Packed(packed)
    row = index.find('dög/05.png')
    shard = index.shards[index.index[row]['shard']]
    flip_bit(shard, int(index.index[row]['offset']) + 20)
    message = rf'shard {shard} is corrupt: dög/05.png .\d+ bytes from [\d,]+ on.*; remove it'
    with pytest.raises(PackedError, match=message):
        fileio.get(f'packed://{packed}/dög/05.png')
    assert len(verify(packed)) == 1 and str(shard) in verify(packed)[0]
    shard.unlink()
    with pytest.raises(PackedError, match=rf'shard {shard} is missing, expected [\d,]+; remove'):
        Packed(packed)
    assert pack_images(folder, packed, shard_bytes=SMALL).kept == 4
    assert verify(packed) == []


def test_a_truncated_shard_or_index_is_found_at_the_start(packed):
    shard = packed / 'shard-00001.tar'
    os.truncate(shard, 2000)
    with pytest.raises(PackedError, match=rf'shard {shard} has 2,000 bytes, expected [\d,]+;'):
        UnlabelledImages(data_root=f'packed://{packed}')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda p: os.truncate(p / 'index.npy', 200), r'index\.npy cannot be read'),
        (lambda p: np.save(p / 'index.npy', np.load(p / 'index.npy')[1:]), r'lists 12.* says 13'),
        (lambda p: (p / 'manifest.json').write_text('{"format"'), r'manifest\.json is damaged'),
        (lambda p: (p / 'manifest.json').write_text(json.dumps([1])), 'is not of the format'),
    ],
)
def test_damaged_bookkeeping(packed, damage, message):
    damage(packed)
    with pytest.raises(PackedError, match=message):
        Packed(packed)


def test_a_disk_that_lies_is_caught(folder, tmp_path, monkeypatch):
    real = os.fsync

    def lie(descriptor):
        real(descriptor)
        if re.search(r'\.tar\.\d+\.part$', os.readlink(f'/proc/self/fd/{descriptor}')):
            flip_bit(Path(os.readlink(f'/proc/self/fd/{descriptor}')), 540)

    monkeypatch.setattr(os, 'fsync', lie)
    with pytest.raises(PackedError, match=r'shard-00000.*cat/00\.png is not what was written'):
        pack_images(folder, tmp_path / 'packed', shard_bytes=SMALL)
    assert not (tmp_path / 'packed' / 'shard-00000.tar').exists()


def test_bad_arguments(folder, tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').touch()
    with pytest.raises(ValueError, match=r"holds \['thesis\.tex'\]; accepted is a new or empty"):
        pack_images(folder, tmp_path / 'full')
    with pytest.raises(FileNotFoundError, match='no such folder of images'):
        pack_images(tmp_path / 'nowhere', tmp_path / 'packed')
    with pytest.raises(ValueError, match='no image to pack in'):
        pack_images(tmp_path / 'full', tmp_path / 'packed')
    with pytest.raises(ValueError, match=r'shard_bytes must be at least 1, got 0'):
        pack_images(folder, tmp_path / 'packed', shard_bytes=0)
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        pack_images(folder, tmp_path / 'packed', ['gone.png'])


def test_the_tool(folder, tmp_path, monkeypatch, capsys):
    def tool(*arguments):
        monkeypatch.setattr(sys, 'argv', ['pack_images.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / 'pack_images.py'), run_name='__main__')

    packed = tmp_path / 'packed'
    tool(folder, packed)
    said = capsys.readouterr().out
    assert '13 images, 0 MB, in 1 shards, read back and compared' in said
    assert f'data_root=packed://{packed}' in said
    tool('--verify', packed)
    assert '13 images' in capsys.readouterr().out
    flip_bit(packed / 'shard-00000.tar', 520)
    with pytest.raises(SystemExit, match='error: 1 of the images in'):
        tool('--verify', packed)
    assert 'shard-00000.tar is corrupt: cat/00.png' in capsys.readouterr().err
    (tmp_path / 'list.txt').write_text('cat/02.png 0\ntop.jpeg\n')
    tool(folder, packed, '--list', tmp_path / 'list.txt')
    assert '2 images' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='error: no such list of images'):
        tool(folder, packed, '--list', tmp_path / 'nothing.txt')
    with pytest.raises(SystemExit, match='error: FROM, the folder of the images, is missing'):
        tool(packed)
