"""What has got past the readers once: damaged and hostile files, each small and made by hand."""

import argparse
import copy
import json
import pickle
import struct

import numpy as np
import pytest
import tifffile
import torch
from mmengine.runner import CheckpointLoader

from mirl_mm.apps.report import facts
from mirl_mm.apps.report.runs import read_run
from mirl_mm.checkpoint import load_weights, read_checkpoint, safety
from mirl_mm.checkpoint.config_text import read_config
from mirl_mm.checkpoint.folders import IMAGENET, pixels_of
from mirl_mm.checkpoint.reading import class_names
from mirl_mm.datasets.channels import decode_channels
from mirl_mm.datasets.packed import Packed
from mirl_mm.engine.checks.annotations import read_annotations
from mirl_mm.engine.resume import find_checkpoint, is_whole
from mirl_mm.errors import CheckpointError, PackedError, UserError, reason_of
from mirl_mm.models.archs import EncoderArch

from . import readers

DEEP = '[' * 100_000
QKV = 'blocks.0.attn.qkv.weight'
# Number, version and sizes, with which torch's files before 1.6 start.
OLD = b''.join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
HUGE = b'\x8a\x06' + bytes(5) + b'\x01'  # 2 ** 40
PICKLES = {  # behind the protocol: what unpickling it ends in
    b'': EOFError,
    b'K\x01K\x02s.': IndexError,
    b'h\x05.': KeyError,
    b'c_codecs\nencode\nX\x01\0\0\0aX\x01\0\0\0-\x86R.': LookupError,
    b'ccollections\nOrderedDict\n)RK\x01b.': TypeError,
    b'cbuiltins\nrange\nK\x01K\x02K\x00\x87R.': ValueError,
    b'K\x01Q.': AssertionError,
    b'X\x01': struct.error,
    b'cdatetime\ntimedelta\n' + HUGE + b'\x85R.': OverflowError,
}


@pytest.mark.parametrize('content', PICKLES)
def test_old_torch_files(tmp_path, monkeypatch, content):
    """Each is one line, and would not be without its kind of error in BROKEN."""
    (path := tmp_path / 'old.pth').write_bytes(OLD + b'\x80\x02' + content)
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match='cannot be read as a torch file') as error:
            read(str(path))
        assert str(path) in str(error.value)
    kind = PICKLES[content]
    others = [each for each in safety.BROKEN if not issubclass(kind, each)]
    monkeypatch.setattr(safety, 'BROKEN', tuple(others))
    with pytest.raises(kind) as error:
        read_checkpoint(path)
    assert type(error.value) is kind and not reason_of(error.value)


@pytest.mark.parametrize(
    'tensor',
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(3, device='meta'),
        torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6), check_invariants=True),
    ],
    ids=['one number, stretched', 'no numbers', 'sparse'],
)
def test_tensors_of_no_size(tmp_path, tensor):
    torch.save({QKV: tensor}, path := tmp_path / 'x.pth')
    assert path.stat().st_size < 3000
    with pytest.raises(CheckpointError, match=f'cannot be used: it has tensors .*: {QKV}'):
        read_checkpoint(path)


@pytest.mark.parametrize('kind', ['list', 'tuple', 'set', 'frozenset'])
def test_no_long_list_is_made(tmp_path, kind):
    asked = f'cbuiltins\n{kind}\ncbuiltins\nrange\n'.encode() + HUGE + b'\x85R\x85R.'
    for name, start in (('x.pd', b'\x80\x02'), ('x.pth', OLD + b'\x80\x02')):
        (path := tmp_path / name).write_bytes(start + asked)
        with pytest.raises(CheckpointError, match='is too long'):
            read_checkpoint(path)
    short = tmp_path / 'short.pth'
    torch.save({QKV: torch.ones(6, 2), 'steps': range(1, 9, 2)}, short)
    assert CheckpointLoader.load_checkpoint(str(short))['steps'] == range(1, 9, 2)


@pytest.mark.dense
@pytest.mark.parametrize('number', [2**31, -(2**31), 1e9, 1e300])
def test_outlines_beyond_any_picture(tmp_path, number):
    """pycocotools would end the process."""
    (tmp_path / 'seed').mkdir()
    (tmp_path / 'out').mkdir()
    path = readers.coco(tmp_path / 'seed')
    readers.read_coco(path, tmp_path / 'out')
    content = json.loads(path.read_text())
    content['annotations'][0]['segmentation'][0][3] = number
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'annotation 1 of 1\.jpg has segmentation'):
        readers.read_coco(path, tmp_path / 'out')


DTYPE = b'cnumpy\ndtype\nX\x02\0\0\0%s\x85R'
STATE = b'(K\x03X\x01\0\0\0<%sJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
FLOAT = DTYPE % b'f4' + STATE % b'NNN'
ARRAYS = {  # shape and type of an array of two float32, and what is said of them
    'sound': (b'K\x02\x85', FLOAT, ''),
    'large': (HUGE + b'\x85', FLOAT, '8 bytes are no array'),
    'so large that it is 0': (HUGE * 2 + b'\x86', FLOAT, '8 bytes are no array'),
    'negative': (b'J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86', FLOAT, '8 bytes are no array'),
    'no dtype': (b'K\x02\x85', b'N', 'plain'),
    'objects': (b'K\x01\x85', DTYPE % b'O8' + STATE % b'NNN', 'no plain data'),
    'parts': (b'K\x02\x85', DTYPE % b'f4' + STATE % b'K\x05K\x05\x86K\x05K\x05', ''),
}


@pytest.mark.parametrize('name', ['x.pd', 'x.pth'])
@pytest.mark.parametrize('kind', ARRAYS)
def test_arrays_of_no_memory(tmp_path, kind, name):
    """numpy believes what a file says of types and sizes: the process ended, or worse."""
    shape, dtype, words = ARRAYS[kind]
    made = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\1\0\0\0b\x87R'
    numbers, path = b'\0\0?\0\0\0@\0', tmp_path / name
    if path.suffix == '.pd':
        start, raw, end = b'\x80\x03', b'C\x08' + numbers, b''
    else:
        raw = b'c_codecs\nencode\nX\x08\0\0\0' + numbers + b'X\x06\0\0\0latin1\x86R'
        start, end = OLD + b'\x80\x02', b'\x80\x02].'  # keys of no storages
    state = b'(K\x01' + shape + dtype + b'\x89' + raw + b'tb'
    path.write_bytes(start + b'}X\x01\0\0\0a' + made + state + b's.' + end)
    if words:
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(path)
    elif path.suffix == '.pd':
        found = read_checkpoint(path)[0]['a']
        assert found.tolist() == list(struct.unpack('<2f', numbers))
    else:
        found = CheckpointLoader.load_checkpoint(str(path))['a']
        assert found.tolist() == list(struct.unpack('<2f', numbers))


def test_nothing_is_put_on_a_class(tmp_path):
    for module, name in (('argparse', 'Namespace'), ('types', 'SimpleNamespace')):
        asked = f'c{module}\n{name}\n'.encode()
        (path := tmp_path / 'x.pd').write_bytes(b'\x80\x02' + asked + b'(N}X\1\0\0\0aK\1stb.')
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    assert not hasattr(argparse.Namespace, 'a')


def test_arrays_are_numpys_when_they_are_saved_again(tmp_path):
    content = dict(a=np.arange(6.0).reshape(2, 3), b=np.float64(3), c=np.array(['x', 'yz']))
    torch.save({QKV: torch.ones(6, 2), **content}, path := tmp_path / 'x.pth')
    found = CheckpointLoader.load_checkpoint(str(path))
    assert isinstance(found['a'], np.ndarray) and type(found['b']) is np.float64
    torch.save(found, again := tmp_path / 'again.pth')
    assert b'mirl_mm' not in again.read_bytes()
    for name, value in CheckpointLoader.load_checkpoint(str(again)).items():
        if name in content:
            assert np.array_equal(value, content[name]) and value.dtype == content[name].dtype


def test_numpys_types_that_the_user_lets_in(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.save({QKV: torch.ones(6, 2), 'a': np.ones(2, '>f4')}, path := tmp_path / 'x.pth')
    torch.serialization.add_safe_globals([np.ndarray, np.dtype, np.dtypes.Float32DType])
    try:
        users = {*torch.serialization.get_safe_globals()}
        for _ in range(3):
            found = CheckpointLoader.load_checkpoint(str(path))['a']
            assert found.tolist() == [1, 1] and found.dtype.kind == 'f'
        assert {*torch.serialization.get_safe_globals()} == users
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_deeply_nested_json(tmp_path):
    for file in (readers.shards, readers.timm_folder):
        (folder := tmp_path / file.__name__).mkdir()
        (path := file(folder)).write_text(DEEP)
        with pytest.raises(CheckpointError, match=str(path)):
            read_checkpoint(path if path.suffixes[-2:-1] == ['.index'] else folder)
    (path := tmp_path / 'coco.json').write_text(DEEP)
    with pytest.raises(UserError, match='is no valid JSON'):
        read_annotations(path)
    text = json.dumps({'__metadata__': {'mirl_mm': DEEP}}).encode()
    (path := tmp_path / 'a.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text)
    with pytest.raises(CheckpointError, match='cannot be read as safetensors'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'text',
    ['(' * 100_000, '-' * 100_000 + '1', 'model = {[]: 1}', 'model = "\ud800"', '\0', 'a = '],
    ids=['brackets', 'signs', 'key', 'half', 'zero', 'end'],
)
def test_what_is_no_config(text):
    with pytest.raises(SyntaxError):
        read_config(text, {'model'})


def test_pixels_that_are_no_numbers(tmp_path):
    for mean in ([None], ['a'] * 3, [10**400] * 3, [[0.5]], {}):
        for text in ({'image_mean': mean, 'image_std': [1.0]}, {'pretrained_cfg': mean}):
            (tmp_path / 'preprocessor_config.json').write_text(json.dumps(text))
            assert pixels_of('', tmp_path, 3)[:2] == IMAGENET
    (tmp_path / 'preprocessor_config.json').write_text('{"image_mean": [0.5], "image_std": [2]}')
    assert pixels_of('', tmp_path, 3)[:2] == ([0.5] * 3, [2] * 3)


def test_stored_archs():
    sound = dict(readers.TINY, patch_size=8, img_size=[16, 16], norm_eps=1e-5)
    assert EncoderArch.of_meta(dict(arch=sound)).img_size == (16, 16)
    assert EncoderArch.of_meta(dict(arch=dict(sound, img_size=None))).img_size is None
    for key in ('embed_dims', 'patch_size'):
        assert EncoderArch.of_meta(dict(arch=dict(sound, **{key: '8'}))) is None
    for arch in ('text', [1], None, 3):
        assert EncoderArch.of_meta(dict(arch=arch)) is None
    for key, value in dict(img_size=16, num_heads='2', norm_eps=[1], patch_size=0).items():
        with pytest.raises(CheckpointError, match='the arch stored with it is damaged'):
            EncoderArch.of_meta(dict(arch=dict(sound, **{key: value})))
    for size in ([16], ['a', 'b'], [-16, 16]):
        with pytest.raises(CheckpointError, match='the arch stored with it is damaged'):
            EncoderArch.of_meta(dict(arch=dict(sound, img_size=size)))


def test_class_names_that_are_none():
    assert class_names(dict(classes=3)) == class_names(dict(dataset_meta=dict(CLASSES=0.5))) == []
    assert class_names(dict(classes=None, CLASSES=('a', 3))) == ['a', '3']


def test_a_shard_of_something_else(tmp_path):
    path = readers.shard_of_weights(tmp_path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match=f'{path.name} holds a list, not a dict'):
        read_checkpoint(tmp_path)


def test_an_index_without_a_name(tmp_path):
    path = readers.shards(tmp_path)
    path.write_text('{"weight_map": {"a": ""}}')
    with pytest.raises(CheckpointError, match='is no index of shards'):
        read_checkpoint(path)


def test_a_work_dir_with_damage(tmp_path):
    pointer = readers.work_dir(tmp_path)
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    for content in (b'\xff\xfe.pth', b'epoch\0_9.pth', b'epoch_1.pth'):
        pointer.write_bytes(content)
        found, notes = find_checkpoint(tmp_path)
        assert found.name == 'epoch_2.pth' and 'passing over it' in notes[0]
    whole = found.read_bytes()
    place = whole.rindex(b'PK\x01\x02') + 6  # version of zip that is needed
    found.write_bytes(whole[:place] + b'\xff' + whole[place + 1 :])
    assert not is_whole(found)


def test_pages_in_a_circle(tmp_path):
    """tifffile would follow them 2 ** 32 times."""
    path = readers.tiff()(tmp_path)
    with tifffile.TiffFile(path) as file:
        first, at = file.pages[0].offset, file.pages[0].offset
    content = path.read_bytes()
    tags = int.from_bytes(content[at : at + 2], 'little')
    end = at + 2 + 12 * tags
    link = first.to_bytes(4, 'little')
    with pytest.raises(Exception, match=r'.'):
        decode_channels(content[:end] + link + content[end + 4 :], 4)
    assert decode_channels(content, 5).shape == (12, 16, 5)


def test_a_packed_index_that_points_nowhere(tmp_path):
    (tmp_path / 'seed').mkdir()
    path = readers.packed('index.npy', tmp_path / 'seed')
    sound = np.load(path)
    for field, value in (('shard', 99), ('offset', 10**6), ('size', 2**40), ('size', 2**63)):
        index = sound.copy()
        index[field][0] = value
        np.save(path, index)
        with pytest.raises(PackedError, match='places row 0 where no shard reaches'):
            Packed(path.parent).read(0)
    for index in (sound[['name', 'size']], sound[None], np.zeros(3), sound.astype(object)):
        np.save(path, index)
        with pytest.raises(PackedError, match=r'index\.npy cannot be read'):
            Packed(path.parent)
    np.save(path, sound)
    assert len(Packed(path.parent).read(0)) == sound['size'][0]


MANIFESTS = [
    dict(images='3'), dict(images=10**400), dict(shards=3), dict(shards=[3]),
    dict(shards=[dict(file=3, bytes=1)]), dict(shards=[dict(file='x', bytes='1')]),
    dict(shards=[dict(file='x')]),
]  # fmt: skip


@pytest.mark.parametrize('change', MANIFESTS)
def test_manifests(tmp_path, change):
    (tmp_path / 'seed').mkdir()
    path = readers.packed('manifest.json', tmp_path / 'seed')
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PackedError, match=r'manifest\.json is damaged or'):
        Packed(path.parent)


def test_reports_of_damaged_files(tmp_path):
    """A record that is not as ours are is counted and left out; a number of 400 digits too."""
    path = readers.run_folder('run.json', tmp_path)
    record = json.loads(path.read_text())
    for change in (dict(batch='4'), dict(started=None), dict(versions=[]), dict(images=10**400)):
        path.write_text(json.dumps(record | change))
        run = read_run(tmp_path)
        assert (run.record, run.unreadable, len(run.training)) == ({}, 1, 4)
    path.write_text(json.dumps(record | dict(seconds=None)))
    assert 'training time' not in facts(read_run(tmp_path))
    path.write_text(json.dumps(record))
    scalars = path.parent / 'vis_data/scalars.json'
    scalars.write_text(scalars.read_text() + json.dumps(dict(iter=50, loss=10**400)) + '\n')
    run = read_run(tmp_path)
    assert run.unreadable == 0 and run.training[-1] == dict(iter=50)
    for content in (dict(rows=3), dict(rows=[dict(label='a')]), dict(summary=['It is so.'])):
        (tmp_path / 'depth.json').write_text(json.dumps(content))
        with pytest.raises(UserError, match=r'depth\.json is damaged'):
            read_run(tmp_path)


def test_the_same_loader_after_all(tmp_path):
    """Nothing sound is refused: the files that damage starts from are read to the number."""
    path = readers.torch_file(tmp_path)
    model = copy.deepcopy(readers.encoder())
    for x in model.parameters():
        x.data.zero_()
    fit = load_weights(model, path)
    assert not fit.missing
    for ours, theirs in zip(model.parameters(), readers.encoder().parameters(), strict=True):
        assert torch.equal(ours, theirs)
