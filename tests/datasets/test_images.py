import copy
import pickle
import re
from pathlib import Path

import pytest
from mmengine import fileio
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mirl_mm.datasets import LoadAnyImage, UnlabelledImages, listing
from mirl_mm.datasets.listing import list_files, read_list
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError

ROOT = Path(__file__).parents[2]
LOAD = [LoadAnyImage()]


@pytest.fixture
def folder(tmp_path):
    """Six images 0.png .. 5.png; image i has i in every pixel."""
    for i in range(6):
        Image.new('RGB', (8, 8), (i, i, i)).save(tmp_path / f'{i}.png')
    return tmp_path


def values(dataset) -> list[int]:
    return [int(dataset[i]['img'][0, 0, 0]) for i in range(len(dataset))]


def paths(dataset, root) -> list[str]:
    return [
        dataset.get_data_info(i)['img_path'].removeprefix(f'{root}/') for i in range(len(dataset))
    ]


def test_nested_folders_are_sorted_and_other_files_left_out(folder):
    (folder / 'n01' / 'deep').mkdir(parents=True)
    for name in ['n01/deep/b.JPEG', 'n01/a.webp', 'n01/notes.txt', '.hidden.png']:
        (folder / name).touch()
    expected = [f'{i}.png' for i in range(6)] + ['n01/a.webp', 'n01/deep/b.JPEG']
    assert paths(UnlabelledImages(data_root=str(folder)), folder) == expected
    below = UnlabelledImages(data_root=str(folder), data_prefix='n01')
    assert paths(below, folder) == ['n01/a.webp', 'n01/deep/b.JPEG']
    assert len(UnlabelledImages(data_root=str(folder), extensions=['.webp'])) == 1


def test_registered_at_the_root_and_takes_part_of_the_images(folder):
    cfg = dict(type='UnlabelledImages', data_root=str(folder), indices=2, pipeline=LOAD)
    assert values(DATASETS.build(cfg)) == [0, 1]


def test_list_file_keeps_its_order_and_ignores_labels(folder):
    (folder / 'with space.png').touch()
    (folder / 'train.txt').write_text('3.png 7\n\n1.png\nwith space.png\nwith space.png 4\n')
    dataset = UnlabelledImages(data_root=str(folder), ann_file='train.txt')
    assert paths(dataset, folder) == ['3.png', '1.png', 'with space.png', 'with space.png']


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(data_root='nowhere'), FileNotFoundError, r'no such folder .*nowhere.*\.jpg, \.p'),
        (dict(data_root='0.png'), FileNotFoundError, r'no such folder .*0\.png'),
        (dict(data_root='empty'), ValueError, r'no image in the folder empty/?; .*\.jpeg'),
        (dict(data_root='.', extensions=['.gif']), ValueError, r'files that end in \.gif'),
        (dict(data_root='.', ann_file='x.txt'), FileNotFoundError, r'no such list .*x\.txt'),
        (dict(data_root='.', ann_file='empty.txt'), ValueError, r'in the list .*empty\.txt;'),
        (
            dict(data_root='.', ann_file='gone.txt'),
            FileNotFoundError,
            r'names 2 .*looked for .*a\.png',
        ),
        (dict(data_root=''), ValueError, 'needs the folder'),
        (dict(data_root='.', max_bad_images=-1), ValueError, 'max_bad_images .* got -1'),
        (
            dict(data_root='.', list_cache='x'),
            TypeError,
            "unexpected keyword argument 'list_cache'",
        ),
        (dict(paths=[]), ValueError, 'no image in the iterable of paths'),
        (dict(paths=['no.png']), FileNotFoundError, r'iterable of paths names 1 .*for no\.png'),
        (
            dict(paths='os.nothing'),
            ValueError,
            r"paths='os.nothing' names no f.*accepted",
        ),
        (dict(data_root='.', paths=['0.png'], ann_file='x.txt'), ValueError, 'one is enough'),
    ],
)
def test_what_is_not_there_is_said(folder, monkeypatch, kwargs, error, message):
    monkeypatch.chdir(folder)
    (folder / 'empty').mkdir()
    (folder / 'empty.txt').write_text('\nREADME.md\n')
    (folder / 'gone.txt').write_text('a.png\nb.png\n')
    for build in (
        UnlabelledImages,
        lambda **kw: DATASETS.build(dict(type='UnlabelledImages', **kw)),
    ):
        with pytest.raises(error, match=message):
            build(**kwargs)


# --- any source of paths --------------------------------------------------------------------------


def even_ones(folder: str):
    """Every second image, the last first."""
    yield from sorted(Path(folder).glob('[024].png'), reverse=True)


class EvenOnes(UnlabelledImages):
    def paths(self):
        return even_ones(self.img_prefix)


@pytest.mark.parametrize(
    'build',
    [
        lambda root: UnlabelledImages(paths=[f'{root}/{i}.png' for i in (4, 2, 0)], pipeline=LOAD),
        lambda root: UnlabelledImages(paths=even_ones(root), pipeline=LOAD),
        lambda root: UnlabelledImages(data_root=str(root), paths=even_ones, pipeline=LOAD),
        lambda root: EvenOnes(data_root=str(root), pipeline=LOAD),
        lambda root: DATASETS.build(
            dict(
                type='UnlabelledImages',
                data_root=str(root),
                paths=f'{__name__}.even_ones',
                pipeline=LOAD,
            )
        ),
    ],
    ids=['iterable', 'generator', 'function', 'subclass', 'name in a config'],
)
def test_one_generator_of_paths_is_a_dataset(folder, build):
    dataset = build(folder)
    assert values(dataset) == [4, 2, 0]
    (folder / '2.png').write_bytes(b'broken')  # skipped and counted as ever
    assert values(copy.deepcopy(dataset)) == [4, 0, 0]
    assert values(pickle.loads(pickle.dumps(dataset))) == [4, 0, 0]


# --- the files of a folder ------------------------------------------------------------------------


def accepts(name: str) -> bool:
    return name.lower().endswith(('.jpg', '.png'))


NAMES = ['0.png', 'a/1.JPG', 'a/2.png', 'a/deep/é.png', 'b/3.png', 'b/link.png']


@pytest.fixture
def root(tmp_path):
    """Three folders, one inside another."""
    for name in ('a/1.JPG', 'a/2.png', 'a/deep/é.png', 'b/3.png', 'b/n.txt', 'b/.h.png', '0.png'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'images' / 'b' / 'link.png').symlink_to(tmp_path / 'images' / '0.png')
    return tmp_path / 'images'


def test_the_same_list_as_mmengine_makes(root):
    backend = fileio.get_file_backend(str(root))
    listed = sorted(backend.list_dir_or_file(str(root), list_dir=False, recursive=True))
    assert list_files(root, accepts) == [name for name in listed if accepts(name)] == NAMES


def test_the_dataset_lists_so_as_well(root):
    dataset = UnlabelledImages(data_root=str(root), extensions=('.png',))
    assert paths(dataset, root) == [name for name in NAMES if name.endswith('png')]


def test_lists_with_labels_and_spaces(tmp_path):
    (tmp_path / 'l.txt').write_text('a.png 7\n\nb c.png\nb c.png 4\nnotes.txt 3\n')
    assert read_list(tmp_path / 'l.txt', accepts) == ['a.png', 'b c.png', 'b c.png']
    with pytest.raises(FileNotFoundError, match=r'no such list of images: .*x\.txt'):
        read_list(tmp_path / 'x.txt', accepts)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the log is told of what is left out."""
    lines = []
    monkeypatch.setattr(listing, '_warn', lines.append)
    return lines


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize('kind', ['UnlabelledImages', 'CustomDataset'])
@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['.thumbs/0.png', '.Trash-1000/files/1.png'], '2 hidden (.'),
        (['a/.ipynb_checkpoints/2.png'], '1 hidden (a/.ipynb_checkpoints)'),
        (['a/._2.png', '._0.png', '.DS_Store', '.notes'], '2 hidden ('),
        (['__MACOSX/a/._2.png', '@eaDir/0.png/SYNO_M.jpg'], '2 hidden ('),
        (['a/2.heic', 'a/3.HEIC', 'a/notes.txt'], '2 .heic (a/'),
        (['a/2.webp', 'b/n.json', 'README.md'], '1 .webp (a/2.webp); accepted are .jpg, .png'),
        (['a/2.json', 'b/labels.csv'], None),
    ],
)
def test_hidden_files_and_other_endings_are_said(root, said, kind, names, message):
    put(root, *names)
    (root / 'b/.h.png').unlink()
    settings = dict(type=kind, data_root=str(root), extensions=['.png', '.jpg'])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(settings | (dict(with_label=False) if kind[0] == 'C' else {}))
    assert paths(dataset, root) == NAMES
    start = f'{root}: left out {message}'
    assert [line[: len(start)] for line in said] == ([] if message is None else [start])


@pytest.mark.parametrize(
    'name', ['A.JPG', 'b.jfif', 'c.AVIF', 'd.jpe', 'e.webp', 'f.gif', 'g.jp2', 'h.TIFF', 'i.pbm']
)
def test_endings_that_people_have(folder, said, name):
    mode = '1' if name.endswith('pbm') else 'RGB'
    Image.new(mode, (8, 8)).save(
        folder / name, format=Image.registered_extensions()[name[1:].lower()]
    )
    dataset = UnlabelledImages(data_root=str(folder), pipeline=LOAD)
    found = {path.rsplit('/')[-1]: i for i, path in enumerate(paths(dataset, folder))}
    assert len(dataset) == 7 and said == []
    assert dataset[found[name]]['img'].max() <= 2  # black, as it was written
    assert dataset.bad_images() == []


def test_links_in_circles_end_and_give_no_file_twice(root, tmp_path, said):
    (root / 'b/.h.png').unlink()
    elsewhere = tmp_path / 'elsewhere'
    put(elsewhere, '9.png')
    targets = {
        'itself': '.', 'me': 'me', 'a/up': '..', 'a/deep/far': root.parent, 'b/as_a': '../a',
        'more': elsewhere, 'gone': 'nowhere', 'b/gone.png': 'nowhere.png', 'folder.png': 'a',
    }  # fmt: skip
    for name, target in targets.items():
        (root / name).symlink_to(target)
    (elsewhere / 'back').symlink_to(root)
    assert list_files(root, accepts) == sorted([*NAMES, 'more/9.png'])
    (line,) = said
    assert line.startswith(f'{root}: left out 3 broken links (')
    assert ', 6 links in a circle or twice (' in line


def test_a_folder_of_hidden_folders_is_no_hidden_one(tmp_path):
    put(tmp_path, '.cache/pictures/a/0.png')
    assert list_files(tmp_path / '.cache/pictures', accepts) == ['a/0.png']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('0.png\ta cat\n1.png\t0\nwith  blank.png\tdog\n', None),
        ('0.png,0,cat\n1.png, 1\nwith  blank.png,2\n', None),
        ('0.png;0\r\n1.png;1\r\nwith  blank.png;2\r\n', None),
        ('"0.png",0\n\'1.png\' 1\n"with  blank.png"\n', None),
        (b'\xef\xbb\xbf' + b'0.png\n\n1.png  \n  \n with  blank.png\n\n', None),
        ('# my list\n0.png # good\n1.png\n#\nwith  blank.png -1', None),
        ('0.png\n1.heic\n1.png\nwith  blank.png\n2', "2 of 5 lines name no picture that is taken; "
         "the first is line 2, '1.heic'"),
        ('path,label\n0.png,1\n1.png,2\nwith  blank.png,3', "1 of 4 lines name no picture that is "
         "taken; the first is line 1, 'path,label'"),
        ('0.png\n\n./.thumbs/0.png 1\n1.png\n._1.png\nwith  blank.png', "2 of 5 lines name no "
         "picture that is taken; the first is line 3, './.thumbs/0.png 1'"),
    ],
)  # fmt: skip
def test_forms_of_a_list(folder, said, text, message):
    put(folder, 'with  blank.png')
    (folder / 'list.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset = UnlabelledImages(data_root=str(folder), ann_file='list.txt')
    assert paths(dataset, folder) == ['0.png', '1.png', 'with  blank.png']
    assert said == ([f'{folder}/list.txt: {message}'] if message else [])


def test_a_list_in_another_encoding_is_refused(folder):
    (folder / 'list.txt').write_text('0.png\n', encoding='utf-16')
    with pytest.raises(UserError, match=r'list\.txt is no text in UTF-8 \(invalid start byte\)'):
        UnlabelledImages(data_root=str(folder), ann_file='list.txt')


def test_absolute_paths_of_a_list_may_lie_below_a_hidden_folder(tmp_path):
    (tmp_path / 'l.txt').write_text('/home/me/.data/0.png\n/home/me/.data/._0.png\n')
    assert read_list(tmp_path / 'l.txt', accepts) == ['/home/me/.data/0.png']


def test_the_source_of_paths_of_the_page(folder, monkeypatch):
    page = (ROOT / 'docs/data.md').read_text()
    settings, module = (
        block for block in re.findall(r'```python\n(.*?)```', page, re.S) if 'sharp_ones' in block
    )
    (folder / 'my_pictures.py').write_text(module)
    (folder / 'sharpness.txt').write_text('3.png 0.9\n4.png 0.2\n5.png 0.7\n')
    monkeypatch.syspath_prepend(str(folder))
    config = folder / 'config.py'
    base = f"_base_ = '{ROOT}/configs/mirl/vit-b48_800e.py'\n"
    config.write_text(base + settings.replace('/my/pictures', str(folder)))
    cfg = load_config(str(config))
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=LOAD))
    assert paths(dataset, folder) == ['3.png', '5.png']
