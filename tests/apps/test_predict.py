"""tools/predict.py: pictures of any kind, drawings, results, and input that cannot be used.

What trained detectors and segmentors find is drawn in tests/training/test_dense.py.
"""

import csv
import io
import json
import re
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mirl_mm.apps.predict import image_ids, predict_pictures, rows, write_mask
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import UserError
from tests.processes import run_forked

ROOT = Path(__file__).parents[2]
TASKS = (
    'finetune/vit-test_2e_classes',
    'mask-rcnn/vit-test_20it_scenes',
    'upernet/vit-test_20it_scenes',
)
CLASSIFIER = str(ROOT / 'configs/finetune/vit-test_2e_classes.py')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    """A classifier that always says `green`."""
    cfg = load_config(CLASSIFIER)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data = torch.tensor([0.0, 3.0, 0.0, 0.0])
    meta = dict(dataset_meta=dict(classes=['blue', 'green', 'grey', 'red']))
    path = tmp_path_factory.mktemp('classifier') / 'epoch_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i, size in enumerate([(90, 70), (64, 128)]):
        Image.new('RGB', size, 'grey').save(folder / f'{i}.png')
    return folder


def test_a_classifier_writes_its_label(checkpoint, pictures, tmp_path):
    out = tmp_path / 'out'
    lines = list(predict_pictures(CLASSIFIER, checkpoint, str(pictures), str(out)))
    share = round(100 * np.exp(3) / (np.exp(3) + 3))
    assert lines == [f'{pictures}/{i}.png: green {share} % -> {out}/{i}.png' for i in (0, 1)]
    drawing = np.asarray(Image.open(out / '0.png').convert('RGB')).astype(int)
    assert (np.abs(drawing - 128).max(axis=2) > 40).mean() > 0.002  # letters
    for name in ('single.png', 'single.svg'):
        single = tmp_path / name
        (line,) = predict_pictures(CLASSIFIER, checkpoint, str(pictures / '0.png'), str(single))
        assert line.endswith(f'-> {single}') and single.is_file()


@pytest.mark.parametrize(
    ('changes', 'kind', 'message'),
    [
        (dict(score=1.5), ValueError, r'score must be from 0 to 1, got 1\.5'),
        (dict(checkpoint='epoch_3.pth'), FileNotFoundError, r'no such checkpoint file: epoch_3'),
        (dict(pictures='nowhere'), FileNotFoundError, r'no image or folder at nowhere'),
        (
            dict(out='page.png'),
            ValueError,
            r'page\.png is one page and takes at most 1 of the 2 ',
        ),
        (
            dict(config=str(ROOT / 'configs/mirl/vit-test_2e.py')),
            ValueError,
            r'vit-test_2e\.py is no detector, segmentor or classifier; its model is MIRL',
        ),
        (
            dict(cfg_options={'test_dataloader.dataset.pipeline': []}),
            ValueError,
            r'has no test_dataloader with a pipeline, which is needed',
        ),
    ],
)
def test_input_that_cannot_be_used(checkpoint, pictures, changes, kind, message):
    given = dict(config=CLASSIFIER, checkpoint=checkpoint, pictures=str(pictures)) | changes
    with pytest.raises(kind, match=message):
        list(predict_pictures(**given))


def test_a_checkpoint_without_a_head(checkpoint, pictures, tmp_path):
    state = torch.load(checkpoint)
    del state['state_dict']['head.fc.bias']
    torch.save(state, tmp_path / 'part.pth')
    with pytest.raises(
        ValueError, match=r"part\.pth does not fit this \w+: it lacks 'head\.fc\.bias', which"
    ):
        list(predict_pictures(CLASSIFIER, str(tmp_path / 'part.pth'), str(pictures), str(tmp_path)))


@pytest.fixture(scope='module', params=TASKS, ids=['classifier', 'detector', 'segmentor'])
def untrained(request, tmp_path_factory) -> tuple[str, str]:
    """A config, a checkpoint of a model that finds nothing."""
    config = str(ROOT / f'configs/{request.param}.py')
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    if cfg.default_scope == 'mmseg':  # background, which is black
        torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
        model.decode_head.conv_seg.bias.data = torch.eye(4)[0]
    names = cfg.get('metainfo', dict(classes=['blue', 'green', 'grey', 'red']))
    path = str(tmp_path_factory.mktemp('untrained') / 'model.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(names))), path)
    return config, path


def picture(kind: str, path: Path) -> np.ndarray:
    """Writes one, half of it blue; what is to be seen on it, RGB [H, W, 3]."""
    seen = np.zeros((60, 96, 3), np.uint8)
    seen[:, :48] = (0, 0, 250)
    image, settings = Image.fromarray(seen), dict()
    if kind == 'turned':
        exif = Image.Exif()
        exif[0x0112] = 6
        image, settings = image.transpose(Image.Transpose.ROTATE_90), dict(exif=exif)
    elif kind == '16 bit':
        seen[:] = seen.max(axis=2, keepdims=True)
        image = Image.fromarray(seen[..., 0].astype(np.uint16) << 8)
    elif kind != 'RGB':
        image = image.quantize() if kind == 'P' else image.convert(kind)
    image.save(path, **settings)
    return seen


@pytest.mark.parametrize(
    ('kind', 'name'),
    [('RGB', 'a.png'), ('turned', 'a.png'), ('16 bit', 'a.png'), ('P', 'a.gif'), ('CMYK', 'a.tif')],
)
def test_what_is_drawn_is_the_picture_as_it_is_read(untrained, kind, name, tmp_path, capfd):
    config, checkpoint = untrained
    seen = picture(kind, tmp_path / name)
    pages = predict_pictures(config, checkpoint, str(tmp_path / name), str(tmp_path), score=1.0)
    capfd.readouterr()
    (line,) = pages
    assert 'Inference' not in ''.join(capfd.readouterr())  # a library's progress bar
    assert line.startswith(f'{tmp_path / name}: ') and 'skipped' not in line
    drawing = np.asarray(Image.open(line.rpartition(' -> ')[2]).convert('RGB'))
    assert drawing.shape == seen.shape
    if 'upernet' in config:
        seen = seen / 2  # under black
    right = np.abs(drawing - seen.astype(int)).max(axis=2) <= 12
    assert right.mean() > (0.99 if 'mask-rcnn' in config else 0.7)  # beside the letters


# --- results and batches --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def finder(untrained, tmp_path_factory) -> tuple[str, str, str]:
    """The config, a checkpoint of random weights that finds much, and the kind of its results."""
    config, found_nothing = untrained
    content = torch.load(found_nothing)
    torch.manual_seed(0)
    for name, weight in content['state_dict'].items():
        if name.endswith(('fc_cls.weight', 'conv_seg.weight', 'head.fc.weight')):
            torch.nn.init.normal_(weight, std=0.5)
    path = str(tmp_path_factory.mktemp('finder') / 'model.pth')
    torch.save(content, path)
    kind = {'mask-rcnn': '.json', 'upernet': '', 'finetune': '.csv'}[Path(config).parent.name]
    return config, path, kind


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Six pictures of noise in three sizes, one that is none, and a folder in the folder."""
    folder, rng = tmp_path / 'numbered', np.random.default_rng(0)
    (folder / 'deep').mkdir(parents=True)
    for i, (height, width) in enumerate(
        [(60, 96), (60, 96), (96, 60), (70, 70), (60, 96), (96, 60)]
    ):
        small = Image.fromarray(rng.integers(0, 255, (height // 12, width // 12, 3), np.uint8))
        name = f'{10 + i:06d}.png' if i else f'deep/{10:06d}.png'
        small.resize((width, height), Image.Resampling.NEAREST).save(folder / name)
    (folder / '000013.jpg').write_bytes(b'no picture')
    return folder


def all_found(finder, folder: Path, where: Path, **options) -> tuple[list, list[str]]:
    """What the results hold, a part each picture, and the lines."""
    config, checkpoint, kind = finder
    results = where / f'found{kind}'
    given = dict(out=None, results=str(results)) | options
    lines = list(predict_pictures(config, checkpoint, str(folder), **given))
    if kind == '.json':
        rows = json.loads(results.read_text())
        names = dict.fromkeys(row['file_name'] for row in rows)
        return [[row for row in rows if row['file_name'] == name] for name in names], lines
    if kind == '.csv':
        rows = list(csv.DictReader(results.open()))
        names = dict.fromkeys(row['file'] for row in rows)
        return [[row for row in rows if row['file'] == name] for name in names], lines
    files = sorted(results.rglob('*.*'))
    return [(str(f.relative_to(results)), np.array(Image.open(f))) for f in files], lines


NAMES = ['000011.png', '000012.png', '000014.png', '000015.png', 'deep/000010.png']


def test_batches_of_mixed_sizes_find_what_single_pictures_do(finder, numbered, tmp_path):
    (numbered / '000013.png').rename(numbered / 'deep/000013.png')
    told = []
    singly, lines = all_found(finder, numbered, tmp_path / 'singly')
    batched, again = all_found(
        finder, numbered, tmp_path / 'batched', batch_size=4, progress=lambda *at: told.append(at)
    )
    assert told == [(done, 7) for done in range(8)]
    assert [x.replace('batched', 'singly') for x in again] == lines and len(singly) == 6
    assert lines[2].startswith(f'{numbered}/000013.jpg: skipped (')
    for one, other in zip(singly, batched, strict=True):
        if isinstance(one, tuple):
            assert one[0] == other[0] and one[1].shape == other[1].shape
            assert (one[1] == other[1]).mean() > 0.999  # float noise at an edge
            continue
        assert len(one) == len(other) > 0
        for row, same in zip(one, other, strict=True):
            assert row.keys() == same.keys()
            assert float(row['score']) == pytest.approx(float(same['score']), abs=1e-4)


@pytest.mark.parametrize('untrained', TASKS[1:2], indirect=True)
def test_a_detectors_results_are_cocos(finder, numbered, tmp_path):
    """pycocotools reads them; ids are the numbers that the names are, classes count from 1."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    (numbered / '000013.jpg').unlink()
    found, lines = all_found(finder, numbered, tmp_path)
    assert lines[-1] == f'{sum(map(len, found))} results of 6 pictures -> {tmp_path}/found.json'
    truth, classes = COCO(), load_config(finder[0]).metainfo.classes
    truth.dataset = dict(
        images=[dict(id=i, width=96, height=96) for i in range(10, 16)],
        categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)],
        annotations=[],
    )
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / 'found.json'))
    assert len(loaded.anns) == sum(map(len, found)) > 50
    for row in loaded.anns.values():
        assert f'{row["image_id"]:06d}.png' == Path(row['file_name']).name
        assert classes[row['category_id'] - 1] == row['category']
        size = Image.open(numbered / row['file_name']).size
        assert tuple(row['segmentation']['size']) == size[::-1]
        x, y, width, height = row['bbox']
        assert 0 <= x <= x + width <= size[0] + 1e-3 and 0 <= y <= y + height <= size[1] + 1e-3
        mask = rle.decode(row['segmentation'])
        inside = mask[int(y) : int(np.ceil(y + height)) + 1, int(x) : int(np.ceil(x + width)) + 1]
        assert mask.sum() == inside.sum()
    for each, line in zip(found, lines, strict=False):
        said = [int(number) for number in re.findall(r'(\d+) \w+', line.partition(': ')[2])]
        assert sum(said) == sum(row['score'] >= 0.3 for row in each)


def test_cocos_own_classes_have_cocos_numbers():
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    boxes = dict(bboxes=[[0, 0, 2, 3]] * 4, scores=[0.5] * 4, labels=[0, 11, 26, 79])
    for classes, numbers in ((names, [1, 13, 31, 90]), (names[::-1], [1, 12, 27, 80])):
        found = rows(SimpleNamespace(pred2dict=lambda _: boxes), {}, classes, 'a.jpg', 7)
        assert [row['category_id'] for row in found] == numbers
        assert [row['category'] for row in found] == [classes[i] for i in boxes['labels']]
    assert (names[11], names[26]) == ('stop sign', 'handbag')  # 13 and 31 in COCO's own files


def test_names_that_are_no_numbers_are_counted(pictures):
    (pictures / '7').mkdir()
    (pictures / '1.png').rename(pictures / '7/1.png')
    assert [*image_ids(str(pictures)).values()] == [('0.png', 0), ('7/1.png', 1)]
    (pictures / '0.png').rename(pictures / '01.png')
    assert [*image_ids(str(pictures)).values()] == [('01.png', 1), ('7/1.png', 2)]
    (pictures / '01.png').rename(pictures / 'a.png')
    assert [*image_ids(str(pictures)).values()] == [('7/1.png', 1), ('a.png', 2)]
    assert [*image_ids(str(pictures / 'a.png')).values()] == [('a.png', 1)]


def test_a_classifiers_table(checkpoint, pictures, tmp_path):
    """At most five labels a picture; here there are four."""
    results = tmp_path / 'made/labels.csv'
    given = (CLASSIFIER, checkpoint, str(pictures), str(tmp_path / 'out'))
    lines = list(predict_pictures(*given, results=str(results), batch_size=8))
    assert lines[0].endswith(f' -> {tmp_path}/out/0.png') and len(lines) == 3
    header, *rows = results.read_text().splitlines()
    assert header == 'file,rank,label,name,score' and len(rows) == 8
    assert [row.split(',')[:2] for row in rows[3:5]] == [['0.png', '4'], ['1.png', '1']]
    *first, score = rows[4].split(',')
    assert first == ['1.png', '1', '1', 'green']
    assert float(score) == pytest.approx(np.exp(3) / (np.exp(3) + 3), abs=1e-4)


@pytest.mark.parametrize('untrained', TASKS[2:], indirect=True)
def test_a_segmentors_masks(finder, numbered, tmp_path):
    """A PNG each under the same name; its pixels are the classes of which the line has shares."""
    (numbered / '000013.jpg').unlink()
    found, lines = all_found(finder, numbered, tmp_path)
    names = load_config(finder[0]).metainfo.classes
    assert [name for name, _ in found] == sorted([*NAMES, '000013.png'])
    for (name, mask), line in zip(found, lines, strict=True):
        assert mask.shape == Image.open(numbered / name).size[::-1] and mask.dtype == np.uint8
        counts = np.bincount(mask.ravel(), minlength=4)
        best = int(counts.argmax())
        said = f'{numbered}/{name}: {names[best]} {100 * counts[best] / mask.size:.0f} %'
        assert line.startswith(said) and line.endswith(f' -> {tmp_path}/found/{name}')
    sample = SimpleNamespace(pred_sem_seg=SimpleNamespace(data=torch.tensor([[[0, 299]]])))
    write_mask(sample, [''] * 300, tmp_path / 'wide.png')
    assert np.array(Image.open(tmp_path / 'wide.png')).tolist() == [[0, 299]]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(results='a.json'), r'--results a\.json: .*ImageClassifier is a file ending in \.csv'),
        (dict(results='folder'), r'--results folder: accepted of ImageClassifier is a file end'),
        (dict(batch_size=0), 'got a batch size of 0, .* accepted is a batch of at least 1'),
        (dict(out=None), 'drawings: None, results: None; accepted is .* one of the others'),
    ],
)
def test_results_that_cannot_be_written(checkpoint, pictures, changes, message):
    with pytest.raises(UserError, match=message):
        list(predict_pictures(CLASSIFIER, checkpoint, str(pictures), **changes))


@pytest.mark.parametrize('untrained', TASKS[2:], indirect=True)
def test_masks_beside_drawings(finder, pictures, tmp_path):
    config, checkpoint, _ = finder
    out = str(tmp_path / 'out')
    with pytest.raises(UserError, match=r'--results and --out are both .*out: masks and drawings'):
        list(predict_pictures(config, checkpoint, str(pictures), out, results=f'{out}/'))
    with pytest.raises(
        UserError, match='accepted of EncoderDecoder is a folder, whose name has no'
    ):
        list(predict_pictures(config, checkpoint, str(pictures), out, results='a.json'))
    list(predict_pictures(config, checkpoint, str(pictures), out, results=str(tmp_path / 'masks')))
    for name in ('0.png', '1.png'):
        pages = [np.array(Image.open(tmp_path / part / name)) for part in ('out', 'masks')]
        assert pages[0].shape == (*pages[1].shape, 3)


def test_the_tool_reads_in_workers_and_draws_nothing(checkpoint, pictures, tmp_path):
    workers = 'test_dataloader.num_workers=2'
    arguments = (CLASSIFIER, checkpoint, pictures, '--no-pictures', '--results', 'labels.csv')
    (printed,) = run_forked('predict.py', *arguments, '--cfg-options', workers, cwd=tmp_path)
    *lines, last = printed.splitlines()[-3:]
    assert [line.partition(': ')[0] for line in lines] == [f'{pictures}/{i}.png' for i in (0, 1)]
    assert last == '8 results of 2 pictures -> labels.csv' and 'picture 1/2' not in printed
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == [
        'labels.csv', 'printed_0.txt',
    ]  # fmt: skip


def test_a_terminal_sees_when_it_ends():
    from rich.console import Console
    from rich.live import Live

    shown = runpy.run_path(str(ROOT / 'tools/predict.py'))['shown_on']
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console=console, auto_refresh=False) as live:
        show = shown(live)
        show(0, 4)
        time.sleep(0.05)
        show(3, 4)
    text = console.file.getvalue()
    assert re.search(r'picture 3/4  75% .*left 0:00  until \d\d:\d\d  \d+\.\d pictures/s', text), (
        text
    )
